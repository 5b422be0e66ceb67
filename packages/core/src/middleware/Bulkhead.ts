/**
 * Limits how many messages are in flight in a handler or a dependency, and how many wait for it.
 */
import { Context, Data, Duration, Effect, Exit, Layer } from "effect"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { isStreaming } from "../pipeline/streaming.ts"
import { Compartment } from "./compartment.ts"

/** Options of `middleware`. */
export interface Options {
  /** The name of the dependency. Bulkheads of the same name, `limit` and `queue` share their places, wherever used. */
  readonly name: string
  /** The most messages inside at once; an integer from 1. Default: 10. */
  readonly limit?: number | undefined
  /** The most messages that wait for a place, in order of arrival; an integer from 0. Default: 0. */
  readonly queue?: number | undefined
  /** The time until a refused message is redelivered; above 0. Default: 1 second. */
  readonly retryAfter?: Duration.Input | undefined
}

/** The defaults of `middleware`. */
export const defaults: { readonly limit: number; readonly queue: number; readonly retryAfter: Duration.Duration } = {
  limit: 10,
  queue: 0,
  retryAfter: Duration.seconds(1)
}

/** No place was free and the queue was full; class `throttled`, so the message returns to its source for `retryAfter`. */
export class BulkheadFull extends Data.TaggedError("BulkheadFull")<{
  readonly bulkhead: string
  readonly retryAfter: Duration.Duration
}> {
  readonly failure = "throttled" as const
  override get message(): string {
    return `Bulkhead ${this.bulkhead} is full: come back in ${Duration.format(this.retryAfter)}`
  }
}

/** The occupancy of a bulkhead. */
export interface Occupancy {
  readonly name: string
  readonly limit: number
  readonly running: number
  readonly waiting: number
  /** How many messages the bulkhead has refused. */
  readonly refused: number
}

/** The bulkheads of this process. */
class BulkheadCompartments extends Context.Service<BulkheadCompartments, {
  readonly of: (name: string, limit: number, queue: number) => Compartment
  readonly snapshot: Effect.Effect<ReadonlyArray<Occupancy>>
}>()("@millrace/core/Bulkhead/Compartments") {}
export { BulkheadCompartments as Compartments }

/**
 * Keeps bulkheads in the memory of this process, one for each name, `limit` and `queue`.
 *
 * @category layers
 */
export const layer: Layer.Layer<BulkheadCompartments> = Layer.sync(BulkheadCompartments, () => {
  const all = new Map<string, Compartment>()
  return {
    of: (name, limit, queue) => {
      const id = `${name}:${limit}/${queue}`
      const known = all.get(id)
      if (known !== undefined) return known
      const made = new Compartment(name, limit, queue)
      all.set(id, made)
      return made
    },
    snapshot: Effect.sync(() =>
      Array.from(
        all.values(),
        ({ limit, name, refused, running, waiting }) => ({ name, limit, running, waiting, refused })
      )
    )
  }
})

const check = OptionCheck.make("Bulkhead")

/**
 * Lets at most `limit` messages be inside at once, keeps `queue` more waiting, and refuses the rest.
 *
 * Types: any message in, the same message on; `Compartments` enters R, `BulkheadFull` enters E.
 *
 * A waiting message keeps its lane, which applies backpressure; interrupting it gives its turn to the next. A place is
 * released when the inner chain has ended, by any exit, interruption included.
 *
 * Errors: `BulkheadFull` (class `throttled`) returns the message to its source for `retryAfter`, and spends no retry.
 *
 * **Example** (at most four calls of a slow service at once, from all subscriptions together)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Bulkhead, type Message } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.as(Effect.sleep("1 second"), message.payload.length),
 *   Bulkhead.middleware({ name: "geocoder", limit: 4, queue: 100 })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const middleware = (
  options: Options
): Around<Envelope, FullConfig<{ requires: BulkheadCompartments; fails: BulkheadFull }>> => {
  const { name } = options
  if (name === "") throw new RangeError("Bulkhead: name must say what is protected, got an empty text")
  const limit = check.count("limit", options.limit ?? defaults.limit)
  const queue = check.count("queue", options.queue ?? defaults.queue, { least: 0 })
  const retryAfter = Duration.millis(check.millis("retryAfter", options.retryAfter ?? defaults.retryAfter))
  const full = () => new BulkheadFull({ bulkhead: name, retryAfter })
  return Middleware.make()(
    { name: "Bulkhead", stage: "consume", inBatch: "once", shows: { name, limit, queue } },
    (next) => {
      // caches the compartment for the same `Compartments` service
      let seen: BulkheadCompartments["Service"] | undefined
      let own: Compartment | undefined
      const find = (all: BulkheadCompartments["Service"]): Compartment => {
        if (seen === all && own !== undefined) return own
        seen = all
        return own = all.of(name, limit, queue)
      }
      const pass = (compartment: Compartment, message: Envelope): Middleware.Returns<BulkheadFull> => {
        const ended = (exit: Exit.Exit<unknown, unknown>): void =>
          isStreaming(message, exit)
            ? message.afterAnswer?.(Effect.sync(() => compartment.free()))
            : compartment.free()
        if (compartment.take()) return Eager.around(message, next, ended)
        if (queue > 0) return compartment.wait(() => next(message), full, ended)
        compartment.refused++
        return Exit.fail(full())
      }
      return (message): Middleware.Returns<BulkheadFull, BulkheadCompartments> => {
        const found = Eager.service(BulkheadCompartments)
        return Eager.isDone(found) && found._tag === "Success"
          ? pass(find(found.value), message)
          : Effect.flatMap(found, (all) => pass(find(all), message))
      }
    }
  )
}
