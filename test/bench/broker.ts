import {
  Broker,
  Channel,
  type Handler,
  Lanes,
  MemoryBroker,
  type Message,
  Middleware,
  Outgoing,
  Subscription
} from "@millrace/core"
import { Effect } from "effect"
import { type Bench, keepFirst, measure, type Measured } from "./Bench.ts"
import * as Peers from "./peers.ts"

const Orders = Channel.bytes("orders")
const keys = Array.from({ length: 1000 }, (_, i) => `key-${i}`)
const body = new Uint8Array(8)

let hops = 0
const trivial = Middleware.make()({ name: "Trivial", stage: "consume" }, (next) => (message) => {
  hops++
  return next(message)
})

/** Publishes `count` messages and completes when all are acknowledged. */
const publishToAck = (lanes: Lanes.Lanes, depth: number) => async (): Promise<Measured> => {
  let left = 0
  let finished = () => {}
  let handler: Handler<Message<Uint8Array>, void> = () => {
    if (--left === 0) finished()
    return Effect.void
  }
  for (let i = 0; i < depth; i++) handler = trivial(handler)
  const run = (count: number) =>
    Effect.runPromise(Effect.scoped(Effect.gen(function*() {
      const memory = yield* MemoryBroker.make({ partitions: 4 })
      const running = yield* Effect.provideService(
        Subscription.run(Subscription.make(Orders, { group: "bench", lanes }, handler)),
        Broker.Broker,
        memory.broker
      )
      keepFirst([memory, running])
      const all = new Promise<void>((resolve) => finished = resolve)
      left = count
      let i = 0
      yield* Effect.whileLoop({
        while: () => i < count,
        step: () => {},
        body: () =>
          Effect.suspend(() => {
            const batch: Array<Outgoing<Uint8Array>> = []
            for (let k = 0; k < 256 && i < count; k++) batch.push(new Outgoing("orders", body, keys[i++ % 1000], {}))
            return Effect.andThen(memory.broker.publishAll(batch), Effect.yieldNow)
          })
      })
      yield* Effect.promise(() => all)
      yield* running.drain
      const acknowledged = memory.positions("orders", "bench").reduce((a, b) => a + b, 0)
      if (acknowledged !== count) throw new Error(`${acknowledged} of ${count} acknowledged`)
    })))
  return measure(run, { least: 20_000, most: 4_000_000 })
}

/** P3: the whole way of a message, from publish to acknowledgement. */
export const broker: Bench = {
  name: "broker",
  about: "memory broker, publish to acknowledge, 8 trivial middlewares",
  rounds: 3,
  variants: [
    { name: "millrace, by partition", whose: "millrace", run: publishToAck(Lanes.partition, 8) },
    { name: "millrace, by key", whose: "millrace", run: publishToAck(Lanes.key(256), 8) },
    { name: "millrace, no middleware", whose: "millrace", run: publishToAck(Lanes.partition, 0) },
    {
      name: "NestJS, handler only",
      whose: "peer",
      run: async () => measure(await Peers.nest(8))
    }
  ],
  goals: [
    {
      id: "P3",
      text: "millions of messages for each second of CPU",
      target: 2,
      better: "higher",
      measured: (of) => 1 / of("millrace, by partition").cpu
    },
    {
      id: "P3",
      text: "times cheaper than the handler call alone of NestJS",
      target: 40,
      better: "higher",
      measured: (of) => of("NestJS, handler only").cpu / of("millrace, by partition").cpu
    }
  ]
}
