/**
 * Encodes the answer of a request, and decodes it for a duplicate. A result of no bytes means that the request was done
 * and that no answer is kept.
 */
import { Cause, Effect, Exit, type Schema } from "effect"
import { type Envelope, Message } from "../../message/Message.ts"
import * as Outcome from "../../message/Outcome.ts"
import { decoder, encoder } from "../../pipeline/compile.ts"
import * as Eager from "../../pipeline/Eager.ts"
import type * as Middleware from "../../pipeline/Middleware.ts"
import { IdempotencyUnrepeatable } from "./errors.ts"

const nothing = new Uint8Array(0)
const text = { encode: new TextEncoder(), decode: new TextDecoder("utf-8", { fatal: true }) }

/** The answer of a handler that answers nothing. */
const done = Exit.void as Exit.Exit<unknown> as Exit.Exit<Middleware.Result>

/** Encodes and decodes answers. */
export interface Codec {
  /** Fails only with an answer that its schema refuses. */
  readonly write: (answer: unknown) => Effect.Effect<Uint8Array, unknown>
  /** Reads one byte or more; fails if they cannot be read. Undefined for a handler that answers nothing. */
  readonly read: ((bytes: Uint8Array) => Effect.Effect<unknown, unknown>) | undefined
}

/** The codec of a handler that answers nothing. */
export const silent: Codec = { write: () => Exit.succeed(nothing), read: undefined }

/** Encodes as JSON by a schema. */
export const codecOf = <A>(schema: Schema.ConstraintCodec<A, unknown>): Codec => {
  const [write, read] = [encoder(schema), decoder(schema)]
  return {
    // the type of `middleware` requires an answer of the schema
    write: (answer) => Effect.mapEager(write(answer as A), (json) => text.encode.encode(JSON.stringify(json))),
    read: (bytes) => read(JSON.parse(text.decode.decode(bytes)))
  }
}

/** The exit of an effect, including a throw of `run`. */
const outcomeOf = <A>(run: () => Effect.Effect<A, unknown>): Effect.Effect<Exit.Exit<A, unknown>> => {
  try {
    const result = run()
    return Eager.isDone(result) ? Exit.succeed(result) : Effect.exit(result)
  } catch (defect) {
    return Exit.succeed(Exit.die(defect))
  }
}

/** Logs a warning; a failure to log changes nothing. */
const warn = (message: Envelope, line: string, cause: Cause.Cause<unknown>): Effect.Effect<void> =>
  Effect.catchCause(Effect.logWarning(`Idempotency on ${message.channel}: ${line}`, cause), () => Effect.void)

/** The bytes to keep of an answer: none of an outcome, and none of an answer that its schema refuses. */
export const kept = (message: Envelope, codec: Codec, answer: Middleware.Result): Effect.Effect<Uint8Array> =>
  Outcome.isOutcome(answer) || codec === silent
    ? Exit.succeed(nothing)
    : Effect.flatMapEager(outcomeOf(() => codec.write(answer)), (exit): Effect.Effect<Uint8Array> => {
      if (exit._tag === "Success") return Exit.succeed(exit.value)
      return Cause.hasInterrupts(exit.cause)
        ? Exit.failCause(exit.cause as Cause.Cause<never>)
        : Effect.as(
          warn(
            message,
            "the request was done, and the schema `answer` refuses its answer, which is not kept",
            exit.cause
          ),
          nothing
        )
    })

/** Answers a duplicate with the kept result. */
export const repeated = (
  message: Envelope,
  codec: Codec,
  result: Uint8Array
): Middleware.Returns<IdempotencyUnrepeatable, never, Outcome.Ack> => {
  const { read } = codec
  if (read === undefined) return done
  const lost = (reason: IdempotencyUnrepeatable["reason"]) =>
    message instanceof Message
      ? Exit.succeed(Outcome.Ack)
      : Exit.fail(new IdempotencyUnrepeatable({ channel: message.channel, reason }))
  if (result.length === 0) return lost("unkept")
  return Effect.flatMapEager(
    outcomeOf(() => read(result)),
    (exit): Middleware.Returns<IdempotencyUnrepeatable, never, Outcome.Ack> => {
      // the answer of a handler like this one
      if (exit._tag === "Success") return exit as Exit.Exit<unknown> as Exit.Exit<Middleware.Result>
      return Cause.hasInterrupts(exit.cause)
        ? Exit.failCause(exit.cause as Cause.Cause<never>)
        : Effect.flatMap(
          warn(message, "the request was done before, and this version cannot read its answer", exit.cause),
          () => lost("unreadable")
        )
    }
  )
}
