/**
 * The options of a part, checked.
 */
import { OptionCheck } from "@millrace/core"
import { Config, type Duration, type LogLevel } from "effect"

/** The restarts of a part that failed. */
export interface Restart {
  /** The delay of the first restart, doubled with each further failure. Default: 100 ms. */
  readonly base?: Duration.Input | undefined
  /** The longest delay. Default: 30 seconds. */
  readonly cap?: Duration.Input | undefined
  /** The random share of a delay, from 0 to 1: 0.2 is ± 20 %. Default: 0.2. */
  readonly jitter?: number | undefined
  /** The most restarts `within` a time; an integer from 0, or `unlimited`. Default: 5. */
  readonly times?: number | undefined | "unlimited"
  /** The time in which restarts are counted; older ones are forgotten. Default: 5 minutes. */
  readonly within?: Duration.Input | undefined
}

/** Options of a part. */
export interface PartOptions {
  /** Whether the part runs; a `Config` is read when the program starts. Default: true. */
  readonly enabled?: boolean | Config.Config<boolean> | undefined
  /** The least level of the part's log lines; a `Config` is read when the program starts. Default: the program's level. */
  readonly logLevel?: LogLevel.LogLevel | Config.Config<LogLevel.LogLevel> | undefined
  /** How long the part may take to become ready; a slower start is a failure. Default: 30 seconds. */
  readonly ready?: Duration.Input | undefined
  /** How long the part may take to stop, within the program's budget. Default: 20 seconds. */
  readonly stop?: Duration.Input | undefined
  /** The restarts of the part after a failure, or `never`. */
  readonly restart?: Restart | "never" | undefined
  /**
   * The treatment of a part that failed and is not restarted any more: `exit` stops the program in order, with a failure;
   * `continue` keeps the other parts running. Default: `exit`.
   */
  readonly onFailure?: "exit" | "continue" | undefined
  /**
   * The treatment of an effect that ends with success: `done` leaves the part ended, and the program ends when all parts are
   * done; `exit` stops the program in order, with success; `restart` starts the effect again as after a failure. Default: `done`.
   */
  readonly onEnd?: "done" | "exit" | "restart" | undefined
  /**
   * The readiness of the program while this part is not ready. `degraded` also lets the program start without the part.
   * Default: `down`, and `degraded` where `onFailure` is `continue`.
   */
  readonly whenDown?: "down" | "degraded" | undefined
}

/** The defaults of a part's options. */
export const defaults = {
  enabled: true,
  ready: 30_000,
  stop: 20_000,
  restart: { base: 100, cap: 30_000, jitter: 0.2, times: 5, within: 300_000 },
  onFailure: "exit",
  onEnd: "done",
  whenDown: "down"
} as const satisfies PartOptions

/** Checked options; times in milliseconds. */
export interface Settings {
  readonly enabled: boolean | Config.Config<boolean>
  readonly logLevel: LogLevel.LogLevel | Config.Config<LogLevel.LogLevel> | undefined
  readonly ready: number
  readonly stop: number
  readonly restart: {
    readonly base: number
    readonly cap: number
    readonly jitter: number
    /** `Infinity` if unlimited. */
    readonly times: number
    readonly within: number
  }
  readonly onFailure: "exit" | "continue"
  readonly onEnd: "done" | "exit" | "restart"
  readonly whenDown: "down" | "degraded"
}

/** The option checks of `Program`. */
export const check = OptionCheck.make("Program")

const restartOf = (given: Restart | "never"): Settings["restart"] => {
  const { base, cap, jitter, times, within } = given === "never" ? { times: 0 } as Restart : given
  return {
    base: check.millis("restart.base", base ?? defaults.restart.base),
    cap: check.millis("restart.cap", cap ?? defaults.restart.cap),
    jitter: check.fraction("restart.jitter", jitter ?? defaults.restart.jitter),
    times: times === "unlimited"
      ? Number.POSITIVE_INFINITY
      : check.count("restart.times", times ?? defaults.restart.times, { least: 0 }),
    within: check.millis("restart.within", within ?? defaults.restart.within)
  }
}

/** Checks the options of a part, and throws a RangeError at the first wrong one. */
export const settle = (options: PartOptions): Settings => ({
  enabled: Config.isConfig(options.enabled)
    ? options.enabled
    : check.oneOf("enabled", options.enabled ?? defaults.enabled, [true, false]),
  logLevel: options.logLevel,
  ready: check.millis("ready", options.ready ?? defaults.ready),
  stop: check.millis("stop", options.stop ?? defaults.stop, { least: 0 }),
  restart: restartOf(options.restart ?? {}),
  onFailure: check.oneOf("onFailure", options.onFailure ?? defaults.onFailure, ["exit", "continue"]),
  onEnd: check.oneOf("onEnd", options.onEnd ?? defaults.onEnd, ["done", "exit", "restart"]),
  whenDown: check.oneOf(
    "whenDown",
    options.whenDown ?? (options.onFailure === "continue" ? "degraded" : defaults.whenDown),
    ["down", "degraded"]
  )
})
