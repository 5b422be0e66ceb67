import { Broker, Lanes } from "@millrace/core"
import { Nats as Servers } from "@millrace/testing/servers"
import { expect, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { describeServer } from "../services/describe.ts"
import { kill, start } from "./children.ts"
import { eventually, fresh, layerOf, outgoing, reader, send } from "./support.ts"

const texts = (n: number) => Array.from({ length: n }, (_, i) => `m-${i}`)
const numberOf = (text: string) => Number(text.slice(2))

describeServer("X5 X4 JetStream when something dies", Servers.own(), (server) => {
  it.live(
    "X5 what a consumer had that is killed comes to another: none lost, few twice",
    () =>
      Effect.suspend(() =>
        Effect.scoped(Effect.gen(function*() {
          const channel = fresh("killed")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          yield* broker.publishAll(texts(1500).map((text) => outgoing(channel, text)))
          const first = yield* start(server(), channel, "shared")
          yield* eventually(() => first.lines.length > 200)
          yield* kill(first)
          expect(first.lines.length).toBeLessThan(1500)
          const second = yield* start(server(), channel, "shared")
          const all = () => [...first.lines, ...second.lines]
          yield* eventually(() => new Set(all()).size === 1500)
          // what it had in flight, and what waited for it
          expect(all().length - 1500).toBeLessThanOrEqual(64 * 4)
        })).pipe(Effect.provide(layerOf(server())))
      ),
    60_000
  )

  it.live(
    "X5 X3 where order matters another takes over, and begins with what was not settled",
    () =>
      Effect.suspend(() =>
        Effect.scoped(Effect.gen(function*() {
          const channel = fresh("order")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          yield* broker.publishAll(texts(1000).map((text) => outgoing(channel, text)))
          const first = yield* start(server(), channel, "ordered")
          yield* eventually(() => first.lines.length > 100)
          const second = yield* start(server(), channel, "ordered")
          yield* eventually(() => first.lines.length > 200)
          expect(second.lines).toEqual([])
          yield* kill(first)
          yield* send(channel, "m-1000")
          yield* eventually(() => second.lines.at(-1) === "m-1000")
          const numbers = second.lines.map(numberOf)
          // whole and in order, from something that the first had begun
          const strange = numbers.flatMap((number, i) => number === numbers[0]! + i ? [] : [`${number} at ${i}`])
          expect(strange.slice(0, 20)).toEqual([])
          expect(numbers[0]).toBeLessThanOrEqual(first.lines.length)
          expect(numbers[0]).toBeGreaterThan(first.lines.length - 200)
        })).pipe(Effect.provide(layerOf(server())))
      ),
    60_000
  )

  it.live(
    "X5 X4 a server that is killed again and again under load loses nothing that was confirmed",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const own = yield* Servers.own()
        const channel = fresh("outage")
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const shared = yield* reader(channel, { lanes: Lanes.unordered(32) })
          const ordered = yield* reader(channel, { group: "ordered", lanes: Lanes.partition })
          const confirmed: Array<string> = []
          const wrong: Array<unknown> = []
          let ended = false
          const flow = yield* Effect.forkScoped(Effect.gen(function*() {
            for (let i = 0; !ended; i++) {
              const batch = texts(20).map((text) => `${i}-${text}`)
              yield* send(channel, ...batch).pipe(
                Effect.map(() => void confirmed.push(...batch)),
                Effect.catch((error) => {
                  if (error.reason !== "Lost" && error.reason !== "Unreachable") wrong.push(error)
                  return Effect.sleep("20 millis")
                })
              )
            }
          }))
          for (let round = 0; round < 3; round++) {
            const before = confirmed.length
            yield* eventually(() => confirmed.length > before + 500)
            yield* own.kill
            yield* Effect.sleep("200 millis")
            yield* own.start
          }
          const before = confirmed.length
          yield* eventually(() => confirmed.length > before + 500)
          ended = true
          yield* Fiber.join(flow)
          expect(wrong).toEqual([])
          const missing = (texts: ReadonlyArray<string>) => {
            const set = new Set(texts)
            return confirmed.filter((text) => !set.has(text))
          }
          yield* eventually(() => missing(shared.texts).length === 0 && missing(ordered.texts).length === 0)
          // the first time each came to the ordered one is in the order in which they were confirmed
          const first = Array.from(new Set(ordered.texts)).filter((text) => confirmed.includes(text))
          expect(first).toEqual(confirmed)
        }).pipe(Effect.provide(layerOf(own)))
      })),
    60_000
  )
})
