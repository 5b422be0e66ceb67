/**
 * Runs a handler for one attempt of an activity, as the engine of brokers runs it for a message: with hooks, before the result
 * counts.
 */
import {
  After,
  delivery,
  Eager,
  Failure,
  type Handler,
  Headers,
  type Message,
  type Reader,
  Settlement
} from "@millrace/core"
import { Cause, Effect, Exit } from "effect"
import type { Attempt, Call } from "../Activity.ts"
import type { Codec } from "./json.ts"

const reader: Reader<Headers.Headers> = {
  key: () => undefined,
  keyBytes: () => undefined,
  headers: (headers) => headers,
  fields: (headers) => Headers.toFields(headers),
  timestamp: () => undefined
}

const encoder = new TextEncoder()

/** An activity's parts. */
export interface Parts<P, A, E, R> {
  readonly name: string
  readonly handler: Handler<Message<P>, A, E | Failure.Classified, R>
  readonly payloads: Codec<P>
  readonly values: Codec<A>
  readonly errors: Codec<E>
}

const policy = { entries: {}, table: Settlement.table }

const ofError = (error: unknown): Attempt => {
  const failure = Failure.classOf(error)
  const after = Failure.retryAfterOf(error)
  return failure === undefined || (Failure.lasting.has(failure) && after === undefined)
    ? { _tag: "Dead", cause: error }
    : { _tag: "Retry", cause: error, after }
}

/** Makes the function that runs one attempt. It fails with nothing; an interruption passes. */
export const attemptOf = <P, A, E, R>({ errors, handler, name, payloads, values }: Parts<P, A, E, R>) => {
  const run = Eager.run(handler)

  const ofExit = (exit: Exit.Exit<A, E | Failure.Classified>): Effect.Effect<Attempt> => {
    if (exit._tag === "Success") {
      return Effect.catchEager(
        Effect.mapEager(values.encode(exit.value), (value): Attempt => ({ _tag: "Done", value })),
        (issue): Effect.Effect<Attempt> =>
          Exit.succeed({
            _tag: "Dead",
            cause: new TypeError(`Activity: the result of ${name} is not one of its schema: ${issue}`)
          })
      )
    }
    const found = exit.cause.reasons.find(Cause.isFailReason)
    if (found === undefined) {
      return Cause.hasInterrupts(exit.cause)
        ? Effect.interrupt
        : Exit.succeed({ _tag: "Dead", cause: Cause.squash(exit.cause) })
    }
    const { error } = found
    return Effect.catchEager(
      // an error of the schema is encoded, and any other is refused by it
      Effect.mapEager(errors.encode(error as E), (text): Attempt => ({
        _tag: "Failed",
        error: text,
        type: Failure.tagOf(error),
        message: Failure.messageOf(error)
      })),
      () => Exit.succeed(ofError(error))
    )
  }

  return (call: Call): Effect.Effect<Attempt, never, R> =>
    Effect.matchEffect(payloads.decode(call.payload), {
      onFailure: (issue): Effect.Effect<Attempt> =>
        Exit.succeed({
          _tag: "Dead",
          cause: new TypeError(`Activity: the payload of ${name} is not one of its schema: ${issue}`)
        }),
      onSuccess: (payload): Effect.Effect<Attempt, never, R> => {
        const received = delivery(
          {
            system: "workflow",
            channel: name,
            group: call.workflow,
            partition: 0,
            handler: name,
            holdLimit: Number.POSITIVE_INFINITY
          },
          reader,
          Headers.fromRecord({ ...call.headers, "message-id": `${call.execution}/${call.step}` }),
          0,
          encoder.encode(call.payload),
          call.attempt
        )
        // an interruption waits for the hooks, as in the engine of brokers
        return Effect.uninterruptibleMask((restore) =>
          Effect.flatMap(Effect.exit(restore(Effect.suspend(() => run(received.withPayload(payload))))), (exit) => {
            const hooks = received.hooks ?? []
            received.hooks = undefined
            return Effect.flatMap(
              Effect.exit(After.run(hooks, exit, Settlement.ofExit(policy, exit))),
              (told): Effect.Effect<Attempt> => {
                if (told._tag === "Success" || exit._tag === "Failure") return ofExit(exit)
                const failed = told.cause.reasons.find(Cause.isFailReason)
                return Exit.succeed(
                  failed === undefined ? { _tag: "Dead", cause: Cause.squash(told.cause) } : ofError(failed.error)
                )
              }
            )
          })
        )
      }
    })
}
