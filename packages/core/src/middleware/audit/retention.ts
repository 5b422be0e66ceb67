/**
 * Removes old rows from an audit store.
 */
import { Cause, Clock, type Duration, Effect, Layer, Schedule } from "effect"
import * as Detached from "../../message/Detached.ts"
import { messageOf } from "../../message/Failure.ts"
import * as OptionCheck from "../../message/OptionCheck.ts"
import * as Lost from "../../telemetry/Lost.ts"
import { AuditStore } from "./store.ts"

/** Options of `layerRetention`. */
export interface RetentionOptions {
  /** How long rows stay; above 0. */
  readonly keep: Duration.Input
  /** How often the older ones are removed; above 0. Default: 1 hour. */
  readonly every?: Duration.Input | undefined
}

/**
 * Removes old rows while the layer lives, at once and then at every interval. A round that fails is logged, and the next
 * one removes its rows.
 *
 * **Example** (a month in a memory store)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { Audit } from "@millrace/core"
 *
 * const store = Audit.layerRetention({ keep: "30 days" }).pipe(Layer.provideMerge(Audit.layerMemory()))
 * ```
 *
 * @throws RangeError when a duration is not finite or below 1 ms
 * @category layers
 */
export const layerRetention = (options: RetentionOptions): Layer.Layer<never, never, AuditStore> => {
  const check = OptionCheck.make("Audit.layerRetention")
  const keep = check.millis("keep", options.keep)
  const every = check.millis("every", options.every ?? "1 hour")
  return Layer.effectDiscard(Effect.gen(function*() {
    const store = yield* AuditStore
    const round = Effect.flatMap(Clock.currentTimeMillis, (now) => store.prune({ before: now - keep })).pipe(
      // a defect of the store or of a logger must not end the rounds
      Effect.catchCause((cause) =>
        Lost.quietly(
          "A logger",
          Effect.logWarning(`Audit: old rows were not removed: ${messageOf(Cause.squash(cause))}`)
        )
      )
    )
    yield* Effect.forkScoped(Detached.effect(Effect.repeat(round, Schedule.spaced(every))))
  }))
}
