/**
 * The recommended order of middlewares, as data: each place, with the reason why it is outside all later places.
 */

/** A place in the recommended order. */
export interface Place {
  /** The name in a middleware's description. */
  readonly name: string
  /** Position from 1, outermost first; middlewares of one position may be placed in either order. */
  readonly position: number
  /** The sources that the place applies to. */
  readonly where: "both" | "http" | "messages"
  /** The reason why it is outside all later places; ends a sentence. */
  readonly because: string
}

/** One line of the order: names, their sources, and reasons. */
type Row = ReadonlyArray<readonly [name: string, where: Place["where"], because: string]>

const rows: ReadonlyArray<Row> = [
  // the route table does this
  [[
    "Problem",
    "http",
    "whatever fails further in is answered as a problem, and never with what is inside the program"
  ]],
  [["Correlate", "both", "the id has to be there before a span, a line or a row is made that carries it"]],
  [["Trace", "both", "what stands inside is part of the span, and its lines and rows carry its id"]],
  [
    ["Log", "both", "whatever is refused or fails further in is still a line, and only one"],
    ["Metrics", "both", "what is refused or dropped further in is counted, too"],
    ["Audit", "messages", "what is refused further in leaves a row, too, and several attempts leave one"],
    ["Hooks", "both", "they are told of what is refused further in, too"]
  ],
  [
    ["Parse", "messages", "all that follows reads the message that it makes"],
    ["Cors", "http", "a browser asks first without credentials, and shows a refusal only where its origin is allowed"]
  ],
  [["Request", "messages", "it answers whatever fails further in, once, when the outcome is final"]],
  [["Filter", "messages", "what is for somebody else costs no check of a signature and no share of a limit"]],
  [
    ["Auth", "both", "nothing is read, kept or run for somebody who may not ask"],
    ["RateLimit", "both", "what is refused has cost no body, no key and no run"]
  ],
  [["Scopes", "both", "nothing is read, kept or run for somebody who may not do this"]],
  [["DeadLetter", "messages", "what fails for good further in is given up once, and after its last attempt"]],
  [
    ["Decode", "messages", "bytes are read once for all attempts, and what cannot be read is not tried again"],
    ["Body", "http", "it is read once, and what is wrong with it is said before a key is taken or anything runs"],
    ["IdempotencyKey", "http", "one claim covers all attempts, and a copy gets the answer of the first"]
  ],
  [["Idempotency", "both", "one claim covers all attempts, and a copy runs none of them"]],
  [["Fallback", "both", "it answers when all attempts are over, and not in the place of the second"]],
  [["Retry", "both", "each attempt is counted, limited and timed by itself"]],
  [["Hedge", "both", "each of its runs is counted, limited and timed by itself"]],
  [[
    "CircuitBreaker",
    "both",
    "while it is open nothing waits for a place, and a time that runs out counts as a failure"
  ]],
  [[
    "Bulkhead",
    "both",
    "a place is held for as long as one attempt takes, and the attempt's time begins when it has one"
  ]],
  [["Timeout", "both", "what takes too long is ended before it commits or publishes anything"]],
  [["Inbox", "messages", "the id, what the handler writes and what it publishes are one transaction"]],
  [["Publish", "messages", "it publishes what the handler answers"]]
]

/** Every place, outermost first. */
export const places: ReadonlyArray<Place> = rows.flatMap((row, i) =>
  row.map(([name, where, because]): Place => ({ name, position: i + 1, where, because }))
)
