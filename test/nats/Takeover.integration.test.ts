import { Broker, Headers, Lanes, Outgoing } from "@millrace/core"
import { Nats as Servers } from "@millrace/testing/servers"
import { expect, it } from "@effect/vitest"
import { type ConsumerInfo, jetstreamManager } from "@nats-io/jetstream"
import { createInbox, type Msg } from "@nats-io/transport-node"
import { Effect } from "effect"
import { describeServer } from "../services/describe.ts"
import { kill, start } from "./children.ts"
import { bytes, client, eventually, fresh, layerOf, outgoing, reader, send } from "./support.ts"

const texts = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `m-${from + i}`)

// nothing comes again by itself while a test runs
const patient = { consumer: { claim: "30 seconds", takeover: "1 second" } } as const

/** What the server says of the group's consumer. */
const consumerOf = (server: Servers.NatsServer, channel: string) =>
  Effect.map(
    client(server),
    (nc) => Effect.promise(async () => (await jetstreamManager(nc)).consumers.info(channel, "group"))
  )

const until = (info: Effect.Effect<ConsumerInfo>, isSo: (info: ConsumerInfo) => boolean): Effect.Effect<void> =>
  Effect.flatMap(
    info,
    (found) => isSo(found) ? Effect.void : Effect.andThen(Effect.sleep("20 millis"), until(info, isSo))
  )

describeServer("X3 X4 JetStream where another takes over", Servers.own(), (server) => {
  it.live(
    "X3 X4 what a killed reader had in flight comes before all that is new, and what it settled does not come",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const channel = fresh("taken")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        const keyed = texts(0, 100).map((text, i) =>
          new Outgoing(channel, bytes(text), i % 2 === 0 ? "even" : "odd", Headers.empty)
        )
        yield* broker.publishAll(keyed)
        const first = yield* start(server(), channel, "held")
        yield* eventually(() => first.lines.length === 52)
        // of key odd it has settled 1 and 3, of the other all
        yield* until(
          yield* consumerOf(server(), channel),
          (info) => info.num_ack_pending === 48 && info.num_pending === 0
        )
        const second = yield* reader(channel, { lanes: Lanes.key(8) })
        yield* kill(first)
        yield* send(channel, ...texts(100, 110))
        yield* eventually(() => second.texts.includes("m-109"))
        const left = texts(0, 100).filter((_, i) => i % 2 === 1 && i >= 5)
        expect(second.texts).toEqual([...left, ...texts(100, 110)])
      })).pipe(Effect.provide(layerOf(server(), patient))),
    30_000
  )

  it.live(
    "X3 what was given back out of order is put in order, before all that is new",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const channel = fresh("sorted")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        yield* Effect.scoped(reader(channel, { lanes: Lanes.partition }))
        yield* send(channel, ...texts(0, 10))
        const nc = yield* client(server())
        const inbox = createInbox()
        const had: Array<Msg> = []
        nc.subscribe(inbox, { callback: (_, message) => void had.push(message) })
        nc.publish(`$JS.API.CONSUMER.MSG.NEXT.${channel}.group`, JSON.stringify({ batch: 10, expires: 5e9 }), {
          reply: inbox
        })
        yield* eventually(() => had.length === 10)
        had.forEach((message, i) => i % 5 === 2 && message.respond("+ACK"))
        had.toReversed().forEach((message, i) => (9 - i) % 5 !== 2 && message.respond("-NAK"))
        yield* Effect.promise(() => nc.flush())
        yield* send(channel, ...texts(10, 15))
        const next = yield* reader(channel, { lanes: Lanes.partition })
        yield* eventually(() => next.texts.includes("m-14"))
        expect(next.texts).toEqual(texts(0, 15).filter((text) => text !== "m-2" && text !== "m-7"))
      })).pipe(Effect.provide(layerOf(server(), patient))),
    30_000
  )

  it.live(
    "X3 X4 a reader that was frozen neither settles nor begins what another has by now",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const channel = fresh("frozen")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        yield* send(channel, ...texts(0, 20))
        const first = yield* start(server(), channel, "slow")
        yield* eventually(() => first.lines.includes("begin m-2"))
        const info = yield* consumerOf(server(), channel)
        yield* until(info, ({ ack_floor }) => ack_floor.stream_seq === 2)
        first.process.kill("SIGSTOP")
        let open = false
        const second = yield* reader(channel, { lanes: Lanes.partition }, () => eventually(() => open))
        // where something is not as it should be it ends all the same
        yield* Effect.addFinalizer(() => Effect.sync(() => open = true))
        yield* eventually(() => second.texts.length === 1)
        expect(second.texts).toEqual(["m-2"])
        const before = first.lines.length
        first.process.kill("SIGCONT")
        // so long that it would have done two more
        yield* Effect.sleep("1500 millis")
        // what it was in the middle of may come to its end; the next may have begun when it finds out
        const after = first.lines.slice(before)
        expect(after.join(" ")).toMatch(/^(m-2( begin m-3)?)?$/)
        expect((yield* info).ack_floor.stream_seq).toBe(2)
        open = true
        yield* eventually(() => second.texts.length === 18)
        expect(second.texts).toEqual(texts(2, 20))
        yield* until(info, ({ num_ack_pending }) => num_ack_pending === 0)
        // and it stands by for good
        expect(first.lines.slice(before)).toEqual(after)
        yield* kill(first)
        yield* broker.publish(outgoing(channel, "end"))
        yield* eventually(() => second.texts.includes("end"))
      })).pipe(Effect.provide(layerOf(server(), patient))),
    30_000
  )
})
