import {
  Broker,
  Channel,
  Delivery,
  type Driver,
  Engine,
  Lanes,
  type Origin,
  type Reader,
  Subscription
} from "@millrace/core"
import { Effect, Stream } from "effect"
import { type Bench, type Measured, scaled } from "./Bench.ts"

const Orders = Channel.bytes("orders")
const count = scaled(1_000_000)
// shared by all, so that only what the engine keeps is counted
const body = new Uint8Array(64)
const keys = Array.from({ length: 1000 }, (_, i) => `key-${i}`)

const reader: Reader<undefined> = {
  key: () => undefined,
  keyBytes: () => undefined,
  headers: () => ({}),
  fields: () => [],
  timestamp: () => undefined
}

const heap = (): number => {
  globalThis.gc?.()
  globalThis.gc?.()
  const { external, heapUsed } = process.memoryUsage()
  return heapUsed + external
}

/** A driver that offers a million messages at once. */
const flood: Driver.Driver = {
  system: "flood",
  capabilities: {
    settlement: "position",
    ordering: "partition",
    redelivery: true,
    delay: false,
    deadLetter: false,
    attempts: false,
    groups: true,
    fanOut: true,
    retention: true,
    replay: true,
    persistence: false,
    browse: false,
    tombstones: false,
    partitions: false,
    timestamps: "none",
    transactions: false,
    patterns: false,
    lag: false
  },
  consume: (options, sink) =>
    Effect.gen(function*() {
      const lease: Driver.Lease = { partition: 0, commit: () => Effect.void }
      const origin: Origin = {
        system: "flood",
        channel: options.channel,
        group: options.group,
        partition: 0,
        handler: options.handler,
        holdLimit: Number.POSITIVE_INFINITY
      }
      sink.open(lease)
      sink.ready()
      for (let at = 0; at < count; at += 1000) {
        const batch = Array.from({ length: 1000 }, (_, i) => {
          const keyed: Reader<undefined> = reader
          const delivery = new Delivery(origin, keyed as Reader<never>, undefined as never, at + i, body, 1, false)
          return delivery
        })
        yield* sink.offer(lease, batch)
      }
      return yield* Effect.never
    }),
  publish: () => Effect.void,
  declare: () => Effect.void,
  browse: () => Stream.empty,
  check: Effect.void,
  lag: () => Effect.succeed([])
}

/** Takes a million messages in, all of them waiting behind handlers that do not answer, and weighs them. */
const waiting = (lanes: Lanes.Lanes, byKey: boolean) => async (): Promise<Measured> => {
  if (byKey) Object.assign(reader, { key: () => keys[next++ % 1000] })
  let next = 0
  const before = heap()
  return Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const running = yield* Effect.provideService(
      Subscription.run(
        Subscription.make(Orders, {
          group: "bench",
          lanes,
          inFlight: { messages: 10_000_000, bytes: 10_000_000_000 },
          grace: { drain: 0 }
        }, () => Effect.never)
      ),
      Broker.Broker,
      Engine.make(flood)
    )
    while ((yield* running.health).pending < count) yield* Effect.sleep(10)
    yield* Effect.sleep(500)
    const bytes = (heap() - before) / count
    return { cpu: 0, bytesEach: bytes }
  })))
}

/** P15: what a message costs that waits. */
export const memory: Bench = {
  name: "memory",
  about: "a million messages taken in and waiting, bytes each beyond the payload",
  rounds: 1,
  variants: [
    { name: "in lanes by key", whose: "millrace", run: waiting(Lanes.key(1_000_000), true) },
    { name: "behind one partition", whose: "millrace", run: waiting(Lanes.partition, false) }
  ],
  goals: [
    {
      id: "P15",
      text: "bytes for each message in flight, by key",
      target: 150,
      better: "lower",
      measured: (of) => of("in lanes by key")["bytesEach"]!
    },
    {
      id: "P15",
      text: "bytes for each message in flight, by partition",
      target: 150,
      better: "lower",
      measured: (of) => of("behind one partition")["bytesEach"]!
    }
  ]
}
