import type { Kind } from "./settings.ts"

/** What is checked in each history; the numbers are the settlement rules of the design. */
export const rules = {
  "1 outcome": "the broker is told of each message what its run came to, and nothing else",
  "2 once": "the outcome of a run is what its exit says by table and entries",
  "3 release": "who is interrupted gives the message back, and only a drain, a revoke or a lost lease interrupts",
  "4 durable": "what is told to be done has been done, hooks and dead letter included; no commit passes a gap",
  "5 letter":
    "each dead letter was decided, is the message as it came, and the handler does not run again while it is written",
  "6 settles": "every message is settled in the end, whatever failed on the way",
  "7 duplicates": "a message is done by a run that ended well, never by its arrival",
  "8 hold":
    "a retry waits its time, holds its lane and ends within its bounds; nothing is published to the channel it came from",
  "9 throttled": "what only carried retryAfter is never a dead letter",
  "10 headers": "headers of dead letters do not grow from pass to pass",
  order: "a message starts when all before it in its lane are done",
  exclusive: "a lane runs one message at a time, a message runs once at a time, and all of them no more than the limit",
  lost:
    "nothing of a lease is started or settled once it was taken away or is given back; one call to the broker at a time",
  revoke: "a lease is given back in time, and nothing of it runs then",
  pressure: "nothing is taken in beyond the limits",
  pause: "a paused subscription starts nothing",
  drain: "a drain ends in time; nothing starts, runs or is told after it",
  hooks: "hooks run once for each run",
  claim: "a message whose handler runs keeps its claim",
  restart: "a source that fails again and again is started more and more seldom",
  told: "hooks, audit rows, metrics and the broker are told the same of each run",
  leaks: "a consumer that has ended holds no fiber and no timer",
  fair: "no partition waits for one that floods or stands still, and no lane for one that is always ready",
  start: "a subscription whose dead letter channel cannot be declared starts in time, and says so once",
  refused:
    "a dead letter is tried in smaller forms; refused in every form, it is parked in sight of health, or dropped with one line and one count",
  health: "what is pending and running goes back to zero"
} as const

export type Rule = keyof typeof rules

/** What befalls a subscription; each must happen often, or the rules above prove little. */
export const events = {
  crash: "a process is gone without a word",
  outage: "the broker stops, and all connections are cut",
  drain: "a consumer ends in good order",
  "drain by a handler": "and it is a handler of its own that ends it",
  pause: "a consumer is paused, at times by its own handler",
  revoke: "a lease is taken away in good order",
  "revoke while a handler runs": "and what runs has its grace",
  lost: "a lease is lost, and nothing of it may be settled",
  "lost while a handler runs": "and what runs is interrupted",
  interruption: "a handler is interrupted",
  "refused settlement": "the broker does not take a commit or a settlement",
  "failing hook": "what must last fails after the handler ended",
  "late failure": "what must last fails after an acknowledgement, and later ones of its lane went on",
  "letter without an answer": "a dead letter is written, its answer is lost, and it is written again",
  "given up": "a message was held for as long as it may be, and becomes a dead letter",
  throttled: "a retry names its own time",
  redelivery: "a message comes again after its lease ended",
  "delay of the broker": "the broker holds what waits for its next attempt",
  "lost extend": "a call that extends claims fails, breaks or is never answered",
  "long run": "a handler runs longer than its claim lasts",
  "call without an answer": "a call to the broker is never answered",
  "broken driver": "a call to the broker throws, or dies with a defect",
  "stuck lane": "a handler does not end, and messages wait behind it",
  "eager lane": "a lane always has a message that may start",
  flood: "a partition has more to do than fits in flight",
  "smaller letter": "the broker takes a smaller form of a dead letter that it refuses as a whole",
  "parked letter": "a dead letter is refused in every form, and its message waits",
  "dropped letter": "a dead letter is refused in every form, and its message is given up",
  "undeclared channel": "a declaration fails, throws, dies with a defect or is never answered",
  "lost span": "a tracer throws as a span begins, is annotated or ends",
  "native dead letter": "the broker writes a dead letter by itself"
} as const

export type Event = keyof typeof events

/** The rules and events that only histories with a certain kind of trouble have. */
export const kindOf: { readonly [Name in Rule | Event]?: Kind } = {
  claim: "claims",
  restart: "refusals",
  told: "told",
  fair: "fairness",
  refused: "letters",
  start: "undeclared",
  "lost span": "tracers",
  "undeclared channel": "undeclared",
  "smaller letter": "letters",
  "parked letter": "letters",
  "dropped letter": "letters",
  "stuck lane": "fairness",
  flood: "fairness",
  "eager lane": "fairness",
  leaks: "leaks",
  "lost extend": "claims",
  "long run": "claims",
  "call without an answer": "silence",
  "broken driver": "broken"
}
