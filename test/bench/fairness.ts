import { Broker, Channel, Lanes, MemoryBroker, Outgoing, Subscription } from "@millrace/core"
import { Effect } from "effect"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { type Bench, type Measured, scaled } from "./Bench.ts"

const Orders = Channel.bytes("orders")
const body = new Uint8Array(8)

const spin = (micros: number) => {
  const until = performance.now() + micros / 1000
  while (performance.now() < until) { /* work */ }
}

/** Handlers that keep the processor busy for 50 us each, while other work of the program wants its turn. */
const busy = async (): Promise<Measured> => {
  const count = scaled(40_000)
  let left = count
  let finished = () => {}
  const all = new Promise<void>((resolve) => finished = resolve)
  return Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const memory = yield* MemoryBroker.make({ partitions: 4 })
    for (let i = 0; i < count; i += 1000) {
      yield* memory.broker.publishAll(Array.from({ length: 1000 }, (_, k) => new Outgoing("orders", body, `${k}`, {})))
    }
    const gaps: Array<number> = []
    let last = performance.now()
    let stop = false
    const watch = () => {
      const now = performance.now()
      gaps.push(now - last)
      last = now
      if (!stop) setImmediate(watch)
    }
    const delay = monitorEventLoopDelay({ resolution: 1 })
    delay.enable()
    setImmediate(watch)
    const cpu = process.cpuUsage()
    yield* Effect.provideService(
      Subscription.run(Subscription.make(Orders, { group: "bench" }, () => {
        spin(50)
        if (--left === 0) finished()
        return Effect.void
      })),
      Broker.Broker,
      memory.broker
    )
    yield* Effect.promise(() => all)
    stop = true
    delay.disable()
    const used = process.cpuUsage(cpu)
    const sorted = gaps.toSorted((a, b) => a - b)
    return { cpu: (used.user + used.system) / count, heldP99: sorted[Math.floor(sorted.length * 0.99)]! }
  })))
}

/** One key whose handler never answers, and others that do: how long another key waits because of it. */
const stuck = (withStuck: boolean) => async (): Promise<Measured> => {
  const count = scaled(50_000)
  let left = count
  let finished = () => {}
  const all = new Promise<void>((resolve) => finished = resolve)
  return Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const memory = yield* MemoryBroker.make({ partitions: 1 })
    const waits: Array<number> = []
    const published = new Map<number, number>()
    yield* Effect.provideService(
      Subscription.run(
        Subscription.make(Orders, {
          group: "bench",
          lanes: Lanes.key(64),
          grace: { drain: 0 },
          inFlight: { messages: 100_000 }
        }, (message) => {
          if (message.key === "stuck") return Effect.never
          waits.push(performance.now() - published.get(message.position)!)
          if (--left === 0) finished()
          return Effect.void
        })
      ),
      Broker.Broker,
      memory.broker
    )
    const cpu = process.cpuUsage()
    let position = 0
    const send = (key: string) => {
      published.set(position++, performance.now())
      return memory.broker.publish(new Outgoing("orders", body, key, {}))
    }
    for (let i = 0; i < count; i++) {
      if (withStuck && i % 100 === 0) yield* send("stuck")
      yield* send(`key-${i % 1000}`)
      if (i % 50 === 0) yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
    }
    yield* Effect.promise(() => all)
    const used = process.cpuUsage(cpu)
    const sorted = waits.toSorted((a, b) => a - b)
    return { cpu: (used.user + used.system) / count, waitP99: sorted[Math.floor(sorted.length * 0.99)]! }
  })))
}

/** P17: nobody waits for somebody else. */
export const fairness: Bench = {
  name: "fairness",
  about: "the event loop under busy handlers, and other keys beside a stuck one",
  rounds: 3,
  variants: [
    { name: "busy handlers", whose: "millrace", run: busy },
    { name: "beside a stuck key", whose: "millrace", run: stuck(true) },
    { name: "no key is stuck", whose: "millrace", run: stuck(false) }
  ],
  goals: [
    {
      id: "P17",
      text: "milliseconds that the event loop is held (99 of 100 turns)",
      target: 6,
      better: "lower",
      measured: (of) => of("busy handlers")["heldP99"]!
    },
    {
      id: "P17",
      text: "wait of other keys beside a stuck one, times their wait without it (99 of 100)",
      target: 1.5,
      better: "lower",
      measured: (of) => of("beside a stuck key")["waitP99"]! / of("no key is stuck")["waitP99"]!
    }
  ]
}
