/**
 * Presets: the settings of a monitor and of log lines for production, development and tests, as plain data.
 */
import { Config, Effect, Option } from "effect"

/** The settings of a preset. */
export interface Preset {
  readonly name: "production" | "development" | "test"
  /** Whether errors and slow calls are collected. */
  readonly monitoring: boolean
  /** Whether rules are evaluated and alerts are sent. */
  readonly alerting: boolean
  /** Whether errors are grouped by fingerprint. */
  readonly analysis: boolean
  /** How long groups and labels are kept after they were last seen. */
  readonly retention: "7 days" | "24 hours" | "1 hour"
  /** From which duration a call is slow. */
  readonly slow: "1 second"
  /** Settings of log lines, for `Log.layer` and `Log.middleware`. */
  readonly log: {
    readonly format: "json" | "pretty"
    readonly level: "Info" | "Debug" | "None"
    readonly body: "none" | { readonly characters: number }
    readonly headers: "all" | "none"
  }
}

const frozen = (preset: Preset): Preset => {
  Object.freeze(preset.log)
  if (typeof preset.log.body === "object") Object.freeze(preset.log.body)
  return Object.freeze(preset)
}

/** Everything that watches is on, and nothing of a message's content is logged. Kept for 24 hours. */
export const production: Preset = frozen({
  name: "production",
  monitoring: true,
  alerting: true,
  analysis: true,
  retention: "24 hours",
  slow: "1 second",
  log: { format: "json", level: "Info", body: "none", headers: "none" }
})

/** No alerts; lines for people, with headers and bodies. Kept for an hour. */
export const development: Preset = frozen({
  name: "development",
  monitoring: true,
  alerting: false,
  analysis: true,
  retention: "1 hour",
  slow: "1 second",
  log: { format: "pretty", level: "Debug", body: { characters: 1_000 }, headers: "all" }
})

/** Silent: errors are collected for assertions, and nothing leaves the process. */
export const test: Preset = frozen({
  name: "test",
  monitoring: true,
  alerting: false,
  analysis: true,
  retention: "1 hour",
  slow: "1 second",
  log: { format: "json", level: "None", body: "none", headers: "none" }
})

const presets: ReadonlyMap<string, Preset> = new Map([
  ["production", production],
  ["development", development],
  ["test", test]
])

/** Overrides of a preset. */
export type Overrides = Partial<Omit<Preset, "log" | "name">> & { readonly log?: Partial<Preset["log"]> | undefined }

/** Makes a preset that differs from another; the result is frozen, and the other stays as it is. */
export const merge = (preset: Preset, overrides: Overrides): Preset =>
  frozen({ ...preset, ...overrides, log: { ...preset.log, ...overrides.log } })

/**
 * Reads the preset that the variable `ENVIRONMENT` names, else `NODE_ENV`; neither set means `development`. A name in other letters or
 * with blanks around it counts; an unknown one means `production`, the safe one, with one warning, so that a typo of a deployment
 * logs no body.
 *
 * Fails with a `ConfigError` only if the source of the configuration fails.
 *
 * **Example** (a typo is not development)
 *
 * ```ts
 * import { Preset } from "@millrace/monitor"
 * import { ConfigProvider, Effect } from "effect"
 *
 * const of = (name: string) =>
 *   Effect.provideService(Preset.fromConfig, ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown({ ENVIRONMENT: name }))
 * const { name } = await Effect.runPromise(of("Development"))
 * console.log(name) // => development
 * ```
 */
export const fromConfig: Effect.Effect<Preset, Config.ConfigError> = Effect.gen(function*() {
  const environment = yield* Config.option(Config.NonEmptyString("ENVIRONMENT"))
  const node = yield* Config.option(Config.NonEmptyString("NODE_ENV"))
  const [variable, given] = Option.isSome(environment)
    ? ["ENVIRONMENT", environment.value]
    : ["NODE_ENV", Option.getOrElse(node, () => "development")]
  const found = presets.get(given.trim().toLowerCase())
  if (found !== undefined) return found
  yield* Effect.logWarning(
    `${variable} is ${JSON.stringify(given.slice(0, 50))}, which is none of ${
      [...presets.keys()].join(", ")
    }: the settings of production apply`
  )
  return production
})
