/**
 * The three ways in which a middleware acts on the messages of one `publishAll`.
 */
import { Cause, Context, Effect, Exit } from "effect"
import type { Outgoing } from "../message/Message.ts"
import * as Eager from "./Eager.ts"

type Result = Effect.Effect<unknown, unknown, unknown>

/** A message of a batch, with the services provided by the middlewares outside. */
export interface Entry {
  readonly message: Outgoing<unknown>
  readonly context: Context.Context<never>
}

/** The rest of a chain, for a batch: one effect for all messages. */
export interface Run {
  (entries: ReadonlyArray<Entry>): Result
}

/** Adds a message that a middleware passes to `next` to the batch; undefined where the message is published alone. */
export interface Take {
  (message: Outgoing<unknown>, context: Context.Context<never>): Result | undefined
}

/** Calls the middleware with one message; `take` gets the messages that it passes to `next`. */
export interface Call {
  (entry: Entry, take: Take): Result
}

const alone = () => undefined

/** Stops a middleware from adding messages to a batch after its turn. */
const until = (take: Take) => {
  let current: Take = take
  return {
    take: ((message, context) => current(message, context)) satisfies Take,
    end: () => {
      current = alone
    }
  }
}

/**
 * Runs the middleware for one message after the other. `next` of all but the last ends when the message joins the batch; `next`
 * of the last ends with the batch, and publishes the batch again if called again after a failure.
 */
export const inTurn = (call: Call, run: Run): Run => (entries) => {
  const taken: Array<Entry> = []
  const last = entries.length - 1

  const from = (at: number): Result => {
    for (let i = at; i < last; i++) {
      const turn = until((message, context) => {
        taken.push({ message, context })
        return Exit.void
      })
      const result = call(entries[i]!, turn.take)
      if (!Eager.isDone(result)) {
        return Effect.flatMap(result, () => {
          turn.end()
          return from(i + 1)
        })
      }
      turn.end()
      if (result._tag === "Failure") return result
    }
    return close(entries[last]!)
  }

  const close = (entry: Entry): Result => {
    let running: Outgoing<unknown> | undefined
    let isStarted = false
    let isPublished = false
    let failure: Exit.Exit<unknown, unknown> | undefined
    const turn = until((message, context) => {
      // any other message is a copy, which is published alone
      if (isPublished || (running !== undefined && running !== message)) return undefined
      return Effect.suspend(() => {
        isStarted = true
        running = message
        return Effect.onExitPrimitive(run([...taken, { message, context }]), (exit) => {
          running = undefined
          if (exit._tag === "Success") isPublished = true
          else if (!Cause.hasInterrupts(exit.cause)) failure = exit
          return undefined
        })
      })
    })
    return Effect.flatMapEager(call(entry, turn.take), () => {
      turn.end()
      // the middleware dropped the last message
      if (!isStarted) return taken.length === 0 ? Exit.void : run(taken)
      return isPublished || failure === undefined ? Exit.void : tell(failure, 0)
    })
  }

  /** Passes the failure to the other messages: the middleware handled it for the last message and handles it for all others. */
  const tell = (failure: Exit.Exit<unknown, unknown>, at: number): Result =>
    at === last ? Exit.void : Effect.flatMap(call(entries[at]!, () => failure), () => tell(failure, at + 1))

  return from(0)
}

/** Gives all messages the services that a middleware gave to the last one. */
const shared = (entries: ReadonlyArray<Entry>, message: Outgoing<unknown>, context: Context.Context<never>) => {
  const last = entries.at(-1)!
  let added: Context.Context<never> | undefined
  return entries.map((entry): Entry => {
    if (entry === last) return { message, context }
    if (entry.context === last.context) return { message: entry.message, context }
    added ??= Context.makeUnsafe(
      new Map(Array.from(context.mapUnsafe).filter(([key, value]) => last.context.mapUnsafe.get(key) !== value))
    )
    return { message: entry.message, context: Context.merge(entry.context, added) }
  })
}

/** Runs the middleware once around the batch, with the last message: each call of `next` publishes the batch. */
export const once = (call: Call, run: Run): Run => (entries) =>
  call(entries.at(-1)!, (message, context) => Effect.suspend(() => run(shared(entries, message, context))))
