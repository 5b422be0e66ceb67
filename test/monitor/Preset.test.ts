import { assert, describe, it } from "@effect/vitest"
import { Preset } from "@millrace/monitor"
import { ConfigProvider, Effect, Logger } from "effect"

const read = (environment: Record<string, string>) => {
  const lines: Array<string> = []
  return Effect.map(
    Preset.fromConfig.pipe(
      Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(environment)),
      Effect.provide(Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))]))
    ),
    (preset) => ({ preset, lines })
  )
}

describe("Preset", () => {
  it("H18 presets are plain frozen data, with these values", () => {
    const { development, production, test } = Preset
    for (const preset of [production, development, test]) {
      assert.isTrue(Object.isFrozen(preset) && Object.isFrozen(preset.log) && Object.isFrozen(preset.log.body))
      assert.deepStrictEqual(JSON.parse(JSON.stringify(preset)), preset)
    }
    assert.deepStrictEqual(production, {
      name: "production",
      monitoring: true,
      alerting: true,
      analysis: true,
      retention: "24 hours",
      slow: "1 second",
      log: { format: "json", level: "Info", body: "none", headers: "none" }
    })
    assert.deepStrictEqual(development, {
      name: "development",
      monitoring: true,
      alerting: false,
      analysis: true,
      retention: "1 hour",
      slow: "1 second",
      log: { format: "pretty", level: "Debug", body: { characters: 1_000 }, headers: "all" }
    })
    assert.deepStrictEqual(test.log, { format: "json", level: "None", body: "none", headers: "none" })
    assert.isFalse(test.alerting)
  })

  it.effect("H18 ENVIRONMENT chooses, then NODE_ENV, then development", () =>
    Effect.gen(function*() {
      const nameOf = (environment: Record<string, string>) => Effect.map(read(environment), ({ preset }) => preset.name)
      assert.strictEqual(yield* nameOf({ ENVIRONMENT: "test", NODE_ENV: "production" }), "test")
      assert.strictEqual(yield* nameOf({ NODE_ENV: "production" }), "production")
      assert.strictEqual(yield* nameOf({}), "development")
      assert.strictEqual(yield* nameOf({ ENVIRONMENT: " Production\n" }), "production")
    }))

  it.effect("H18 an unknown name means production, with one warning", () =>
    Effect.gen(function*() {
      const { lines, preset } = yield* read({ ENVIRONMENT: "prodcution" })
      assert.strictEqual(preset, Preset.production)
      assert.deepStrictEqual(lines, [
        "ENVIRONMENT is \"prodcution\", which is none of production, development, test: the settings of production apply"
      ])
      assert.deepStrictEqual((yield* read({ ENVIRONMENT: "development" })).lines, [])
    }))

  it("H18 a merged preset is frozen, and leaves the other as it is", () => {
    const merged = Preset.merge(Preset.production, { alerting: false, log: { headers: "all" } })
    assert.isFalse(merged.alerting)
    assert.deepStrictEqual(merged.log, { ...Preset.production.log, headers: "all" })
    assert.isTrue(Preset.production.alerting)
    assert.isTrue(Object.isFrozen(merged) && Object.isFrozen(merged.log))
  })
})
