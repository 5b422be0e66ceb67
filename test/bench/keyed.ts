import { Broker, Channel, Lanes, MemoryBroker, Outgoing, Subscription } from "@millrace/core"
import { Effect } from "effect"
import { type Bench, keepFirst, type Measured, scaled, stopwatch } from "./Bench.ts"

const Orders = Channel.bytes("orders")
const keys = Array.from({ length: 1000 }, (_, i) => `key-${i}`)
const encoder = new TextEncoder()

// what a socket would do: all that is due in a turn is answered in that turn
const timers = (delay: number) => {
  const due: Array<{ readonly at: number; readonly done: () => void }> = []
  let head = 0
  const tick = () => {
    const now = performance.now()
    while (head < due.length && due[head]!.at <= now) due[head++]!.done()
    if (head > 4096) {
      due.splice(0, head)
      head = 0
    }
    if (head < due.length) setTimeout(tick, Math.floor(due[head]!.at - now))
  }
  return (done: () => void) => {
    if (due.push({ at: performance.now() + delay, done }) - head === 1) setTimeout(tick, delay)
  }
}

/** 1,000 keys, a handler that answers after `delay` ms; order is asserted for each key. */
const once = async (delay: number, lanes: Lanes.Lanes, count: number): Promise<Measured> => {
  const later = timers(delay)
  const last = new Float64Array(1000).fill(-1)
  let left = count
  let finished = () => {}
  let wrong = 0
  const decoder = new TextDecoder()
  const subscription = Subscription.make(Orders, {
    group: "bench",
    lanes,
    inFlight: { messages: 100_000 }
  }, (message) =>
    Effect.callback<void>((resume) =>
      later(() => {
        const key = Number(message.key!.slice(4))
        const n = Number(decoder.decode(message.payload))
        if (n <= last[key]!) wrong++
        last[key] = n
        if (--left === 0) finished()
        resume(Effect.void)
      })
    ))
  return Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const memory = yield* MemoryBroker.make({ partitions: 8 })
    for (let i = 0; i < count; i += 1000) {
      yield* memory.broker.publishAll(
        keys.map((key, k) => new Outgoing("orders", encoder.encode(String(i + k)), key, {}))
      )
    }
    const all = new Promise<void>((resolve) => finished = resolve)
    const stop = stopwatch()
    const running = yield* Effect.provideService(Subscription.run(subscription), Broker.Broker, memory.broker)
    keepFirst([memory, running])
    yield* Effect.promise(() => all)
    const measured = stop(count)
    if (wrong > 0) throw new Error(`${wrong} messages out of order`)
    return measured
  })))
}

/** Warms up with a part of the messages, and measures all. */
const run = (delay: number, lanes: Lanes.Lanes, count: number) => async (): Promise<Measured> => {
  await once(delay, lanes, Math.ceil(count / 20_000) * 1000)
  return once(delay, lanes, count)
}

/** P8: order by key at speed. */
export const keyed: Bench = {
  name: "keyed",
  about: "order kept for each of 1,000 keys while handlers wait for I/O",
  rounds: 3,
  variants: [
    { name: "10 ms, by key", whose: "millrace", run: run(10, Lanes.key(1000), scaled(400_000)) },
    { name: "1 ms, by key", whose: "millrace", run: run(1, Lanes.key(1000), scaled(800_000)) },
    { name: "1 ms, one after another", whose: "peer", run: run(1, Lanes.partition, scaled(8_000)) }
  ],
  goals: [
    {
      id: "P8",
      text: "10 ms handler, share of the bound (keys / latency = 100,000 a second)",
      target: 0.9,
      better: "higher",
      measured: (of) => of("10 ms, by key")["perSecond"]! / 100_000
    },
    {
      id: "P8",
      text: "1 ms handler, messages a second",
      target: 250_000,
      better: "higher",
      measured: (of) => of("1 ms, by key")["perSecond"]!
    },
    {
      id: "P8",
      text: "microseconds of CPU a message at 10 ms",
      target: 5,
      better: "lower",
      measured: (of) => of("10 ms, by key").cpu
    }
  ]
}
