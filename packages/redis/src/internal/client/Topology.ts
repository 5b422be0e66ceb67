/**
 * Checks declarations: a channel has a name, one partition and no settings.
 */
import type { BrokerError, Driver } from "@millrace/core"
import * as Errors from "./Errors.ts"

/** Milliseconds after which a temporary channel expires once its process has died. */
export const lifetime = 300_000

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
