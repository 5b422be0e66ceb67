/**
 * Checks declarations (a channel has a name, one partition and no settings), and keeps temporary channels alive.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect } from "effect"
import * as Errors from "./Errors.ts"

/** Milliseconds after which a temporary channel expires once its process has died. */
export const lifetime = 300_000

/** Extends the expiry of a temporary channel until interrupted; ignores failures: the next attempt may succeed. */
export const keeping = (extend: Effect.Effect<unknown, BrokerError.BrokerError>): Effect.Effect<never> =>
  Effect.forever(Effect.andThen(Effect.ignore(extend), Effect.sleep(lifetime / 3)))

/** Refuses partitions, settings, and a channel without a name. */
export const refuse = ({ channel, partitions, settings }: Driver.Declaration): BrokerError.BrokerError | undefined => {
  if (channel === "") return Errors.invalid("declare", "A channel needs a name.")
  if (partitions !== undefined && partitions !== 1) {
    return Number.isInteger(partitions) && partitions >= 1
      ? Errors.unsupported(
        "declare",
        `Redis divides nothing: ${channel} has one partition, and ${partitions} were declared.`
      )
      : Errors.invalid("declare", `partitions must be an integer from 1, got ${partitions}.`)
  }
  const [setting] = Object.keys(settings ?? {})
  return setting === undefined
    ? undefined
    : Errors.invalid("declare", `Redis knows no setting ${setting} of ${channel}: leave it out.`)
}
