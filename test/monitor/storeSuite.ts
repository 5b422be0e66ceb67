/** The suite that every store of the monitor passes. */
import { assert, describe, it } from "@effect/vitest"
import { AlertRule, Fold, Monitor, Preset } from "@millrace/monitor"
import { Deliveries } from "@millrace/testing"
import { Data, Effect, Exit, Layer, pipe } from "effect"
import { failed, tick } from "./support.ts"

class Down extends Data.TaggedError("Down")<{}> {
  readonly failure = "dependency" as const
}

const fold = Fold.make({ rules: AlertRule.standard })

/** Options of the suite. */
interface Options {
  /** Whether a second build of the layer shares the state of the first. */
  readonly shared: boolean
}

export const suite = <E>(
  name: string,
  /** A store of its own state by this name, and again for the same name. */
  layer: (name: string) => Layer.Layer<Monitor.Store, E>,
  { shared }: Options
) => {
  const run = Math.random().toString(36).slice(2)
  const counting = Effect.flatMap(Monitor.Store, (store) =>
    store.change((state) => {
      const next = fold.run(state ?? fold.empty(), [failed(1_000)])[0]
      return [next, Fold.errors(next).total]
    }))
  const total = Effect.flatMap(Monitor.Store, (store) => store.read).pipe(
    Effect.map((state) => state === undefined ? undefined : Fold.errors(state).total)
  )

  describe(name, () => {
    it.live("H11 begins without a state, and keeps what a change returns", () =>
      Effect.gen(function*() {
        assert.isUndefined(yield* total)
        assert.strictEqual(yield* counting, 1)
        assert.strictEqual(yield* counting, 2)
        assert.strictEqual(yield* total, 2)
      }).pipe(Effect.provide(layer(`a${run}`))))

    it.live("H11 changes at the same time add up, and each sees the one before", () =>
      Effect.gen(function*() {
        const seen = yield* Effect.forEach(Array.from({ length: 40 }), () => counting, { concurrency: "unbounded" })
        assert.deepStrictEqual([...seen].sort((a, b) => a - b), seen.map((_, i) => i + 1))
        assert.strictEqual(yield* total, 40)
      }).pipe(Effect.provide(layer(`b${run}`))))

    it.live("H11 a change that throws changes nothing, and the next one works", () =>
      Effect.gen(function*() {
        yield* counting
        const exit = yield* Effect.exit(Effect.flatMap(Monitor.Store, (store) =>
          store.change(() => {
            throw new Error("no")
          })))
        assert.isTrue(Exit.isFailure(exit))
        assert.strictEqual(yield* counting, 2)
      }).pipe(Effect.provide(layer(`c${run}`))))

    it.live("H13, H15 the whole state comes back: groups, alerts that fire, texts with any character", () =>
      Effect.gen(function*() {
        const store = yield* Monitor.Store
        const message = "é 😀 漢字 \" ' \\ \n \u0001 {}"
        const events = Array.from(
          { length: 60 },
          (_, i) => failed(i, { message, affected: `u${i}`, failure: "poison" })
        )
        const [state] = fold.run(fold.empty(), [...events, tick(15_000)])
        yield* store.change(() => [state, undefined])
        const found = yield* store.read
        assert.deepStrictEqual(JSON.parse(Fold.encode(found!)), JSON.parse(Fold.encode(state)))
      }).pipe(Effect.provide(layer(`d${run}`))))

    if (!shared) return

    it.live("H11, H13 the counts of four processes add up, one of them sends each alert, and a restart repeats none", () =>
      Effect.gen(function*() {
        const sent: Array<string> = []
        const rule = AlertRule.make({
          name: "many",
          when: { kind: "count", of: "errors", window: "15 minutes", atLeast: 40 },
          level: "critical"
        })
        const process = (errors: number) =>
          Effect.gen(function*() {
            const handler = pipe(() => Effect.fail(new Down()), Monitor.middleware())
            for (let i = 0; i < errors; i++) yield* Deliveries.run(handler, Deliveries.make())
            const { tick } = yield* Monitor.Service
            yield* tick
            yield* tick
            return yield* Monitor.errors
          }).pipe(
            Effect.provide(Layer.provide(
              Monitor.layer(Preset.production, {
                rules: [rule],
                groupWait: 0,
                send: [{
                  name: "own",
                  send: ({ status, items }) => Effect.sync(() => void sent.push(`${status} ${items[0]?.value}`))
                }]
              }),
              layer(`e${run}`)
            ))
          )
        yield* Effect.forEach([10, 10, 10, 10], process, { concurrency: "unbounded" })
        assert.strictEqual((yield* process(0)).total, 40)
        yield* process(0)
        assert.deepStrictEqual(sent, ["firing 40"])
      }))

    it.live("H11 a state of a newer program is refused, and stays", () =>
      Effect.gen(function*() {
        const store = yield* Monitor.Store
        const newer = { ...fold.empty(), format: 2 }
        assert.throws(() => Fold.decode(JSON.stringify(newer)), "update the program")
        yield* store.change(() => [fold.empty(), undefined])
      }).pipe(Effect.provide(layer(`f${run}`))))
  })
}
