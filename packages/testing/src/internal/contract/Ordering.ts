/** Scenarios of order: which messages may run concurrently, and up to which position the engine commits. */
import { Lanes, Outcome } from "@millrace/core"
import type { Delivery } from "@millrace/core"
import { Effect, Latch } from "effect"
import {
  type Bench,
  type Broken,
  dawdle,
  ensure,
  type Handle,
  numbered,
  same,
  type Sending,
  textOf,
  trouble
} from "./Bench.ts"
import { type Scenario, scenario } from "./Scenario.ts"

/**
 * Watches handlers of several consumers: which of them run concurrently, and in which order each lane's messages begin and
 * are done.
 */
export class Traffic {
  /** The most handlers that ran at once. */
  most = 0
  readonly faults: Array<string> = []
  private running = 0
  private readonly busy = new Map<unknown, string>()
  private readonly done = new Map<unknown, Set<number>>()

  /** Runs a handler of message `n` of a lane, counted from 0. */
  through(lane: unknown, n: number, effect: ReturnType<Handle>): ReturnType<Handle> {
    return Effect.suspend(() => {
      const done = this.done.get(lane) ?? new Set()
      this.done.set(lane, done)
      for (let before = 0; before < n; before++) {
        if (!done.has(before)) this.faults.push(`${String(lane)}: ${n} began and ${before} had not been done`)
      }
      const other = this.busy.get(lane)
      if (other !== undefined) this.faults.push(`${String(lane)}: ${n} began while ${other} ran`)
      this.busy.set(lane, String(n))
      this.most = Math.max(this.most, ++this.running)
      return Effect.onExit(effect, (exit) =>
        Effect.sync(() => {
          this.running--
          this.busy.delete(lane)
          if (exit._tag === "Success" && exit.value !== "again") done.add(n)
        }))
    })
  }

  get verify(): Effect.Effect<void, Broken> {
    return Effect.suspend(() => same("faults of order", this.faults, []))
  }
}

/** The number at the end of a text: `key-7-12` is 12. */
export const numberOf = (text: string): number => Number(text.slice(text.lastIndexOf("-") + 1))

/** `each` messages of `keys` keys, taken in turn; a text begins with its key. */
export const interleaved = (keys: number, each: number): ReadonlyArray<string> =>
  Array.from({ length: keys * each }, (_, i) => `k${i % keys}-${Math.floor(i / keys)}`)

/** The key in a text of `interleaved`. */
export const keyOf = (text: string): string => text.slice(0, text.lastIndexOf("-"))

/** Fails the first attempt of one message in seven. */
const sometimes = (delivery: Delivery): ReturnType<Handle> =>
  delivery.attempt === 1 && numberOf(textOf(delivery.raw)) % 7 === 3 ? Effect.fail(trouble("transient")) : dawdle

/** Checks that messages of interleaved keys run in the order of their keys, each once. */
const byKey = (
  bench: Bench,
  wanted: ReadonlyArray<string>,
  sending: (text: string) => Sending,
  keyOfDelivery: (delivery: Delivery) => unknown
) =>
  Effect.gen(function*() {
    yield* bench.declare(3)
    const traffic = new Traffic()
    const consumer = yield* bench.consumer(
      (delivery) => traffic.through(keyOfDelivery(delivery), numberOf(textOf(delivery.raw)), sometimes(delivery)),
      { lanes: Lanes.key(5) }
    )
    yield* bench.sendAll(wanted, sending)
    yield* bench.until("all are done", () => consumer.done.length >= wanted.length, () => consumer.done.length)
    yield* traffic.verify
    yield* same("each was done once", consumer.done.toSorted(), wanted.toSorted())
    return traffic
  })

const keyed: Scenario = scenario(
  "order-key",
  "messages of a key run one at a time and in order, those of others beside them, up to the limit",
  ["X3", "T16"],
  (bench) =>
    Effect.gen(function*() {
      const wanted = interleaved(12, 20)
      const { most } = yield* byKey(bench, wanted, (text) => ({ key: keyOf(text) }), ({ key }) => key)
      yield* ensure(most > 1 && most <= 5, () => `${most} handlers ran at once, of at most 5`)
    }),
  { needs: ["order"] }
)

const binary: Scenario = scenario(
  "order-key-binary",
  "keys that are no text keep their order, too",
  ["X3", "F13"],
  (bench) => {
    const wanted = interleaved(4, 10)
    const keys = [...new Set(wanted.map(keyOf))]
    // none of the keys is UTF-8
    const sending = (text: string) => ({ keyBytes: Uint8Array.from([255, keys.indexOf(keyOf(text)), 192]) })
    return Effect.asVoid(byKey(bench, wanted, sending, ({ raw }) => keyOf(textOf(raw))))
  },
  { needs: ["order", "binary headers"] }
)

const partitioned: Scenario = scenario(
  "order-partition",
  "messages of a partition run one at a time and in order, whatever suspends, and partitions beside each other",
  ["X3"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(3)
      const traffic = new Traffic()
      const places = new Map<number, number>()
      const consumer = yield* bench.consumer((delivery) => {
        const n = places.get(delivery.position * 16 + delivery.partition) ?? perPartition(delivery)
        places.set(delivery.position * 16 + delivery.partition, n)
        return traffic.through(delivery.partition, n, sometimes(delivery))
      }, { lanes: Lanes.partition })
      const counts: Array<number> = []
      const perPartition = ({ partition }: Delivery) => {
        const n = counts[partition] ?? 0
        counts[partition] = n + 1
        return n
      }
      const wanted = interleaved(12, 20)
      yield* bench.sendAll(wanted, (text) => ({ key: keyOf(text) }))
      yield* bench.until("all are done", () => consumer.done.length >= wanted.length, () => consumer.done.length)
      yield* traffic.verify
      yield* same("each was done once", consumer.done.toSorted(), wanted.toSorted())
      for (const key of new Set(wanted.map(keyOf))) {
        const of = consumer.done.filter((text) => keyOf(text) === key)
        yield* same(`the order of ${key}`, of, wanted.filter((text) => keyOf(text) === key))
      }
      if (bench.capabilities.ordering === "partition") {
        yield* ensure(traffic.most > 1 && traffic.most <= 3, () => `${traffic.most} partitions ran at once, of 3`)
      }
    }),
  { needs: ["order"] }
)

const limited: Scenario = scenario(
  "order-unordered",
  "without order as many run at once as the limit says, and no more",
  ["X3", "T16"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const gate = Latch.makeUnsafe(false)
      const consumer = yield* bench.consumer(() => gate.await, { lanes: Lanes.unordered(4) })
      const wanted = numbered(12)
      yield* bench.sendAll(wanted, { key: "one" })
      yield* bench.until("four run", () => consumer.got.length === 4)
      yield* bench.quiet
      yield* same("running at once", [consumer.got.length, (yield* consumer.health).running], [4, 4])
      yield* gate.open
      yield* bench.until("all are done", () => consumer.done.length === wanted.length)
    })
)

/**
 * A, B, D and F are acknowledged, C and E never finish; then the subscription ends. If positions are committed, all messages
 * from C on are redelivered; if each message is acknowledged or the lease keeps positions beyond the commit, only C and E.
 */
const gap = (id: string, title: string, how: "drain" | "cut"): Scenario =>
  scenario(
    id,
    title,
    ["X3", "X5"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const letters = ["A", "B", "C", "D", "E", "F"]
        let first = true
        const stuck = (delivery: Delivery): ReturnType<Handle> => {
          const text = textOf(delivery.raw)
          return first && (text === "C" || text === "E") ? Effect.never : Effect.void
        }
        const consumer = yield* bench.consumer(stuck, {
          name: "gap",
          lanes: Lanes.unordered(10),
          restart: { base: 100 }
        })
        yield* bench.sendAll(letters)
        yield* bench.untilSome(
          "all but C and E are settled",
          Effect.map(consumer.health, ({ pending, settled }) => settled === 4 && pending === 2 ? true : undefined),
          () => consumer.texts
        )
        const byPosition = bench.capabilities.settlement === "position"
        yield* bench.until(
          "the broker knows",
          () =>
            byPosition
              ? bench.monitor.committed.size === 1 &&
                (!bench.monitor.keepsBeyond || bench.monitor.settledBeyond === 2)
              : bench.monitor.settledAlone === 4
        )
        const seen = consumer.got.length
        first = false
        const back = byPosition && !bench.monitor.keepsBeyond ? ["C", "D", "E", "F"] : ["C", "E"]
        if (how === "drain") yield* consumer.stop
        else yield* bench.monitor.cut("gap")
        const again = how === "drain" ? yield* bench.reader() : consumer
        const came = () => how === "drain" ? again.texts : again.texts.slice(seen)
        yield* bench.until("what was open came back", () => came().length >= back.length, came)
        yield* bench.send("G")
        yield* bench.until("the next comes after it", () => came().includes("G"), came)
        yield* bench.sequence("what came back", came(), [...back, "G"])
      }),
    { needs: ["redelivery"] }
  )

const blocked: Scenario = scenario(
  "order-unacknowledged",
  "the second message of a lane waits for the first, however long",
  ["X3"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const gate = Latch.makeUnsafe(false)
      const consumer = yield* bench.consumer(({ raw }) => textOf(raw) === "slow" ? gate.await : Effect.void)
      yield* bench.sendAll(["slow", "next"])
      yield* bench.has(consumer, ["slow"])
      yield* bench.quiet
      yield* same("while the first runs", consumer.texts, ["slow"])
      yield* gate.open
      yield* bench.has(consumer, ["slow", "next"])
      yield* bench.quiet
      yield* same("each once", consumer.texts, ["slow", "next"])
    }),
  { needs: ["order"] }
)

/**
 * If no member of a group may run messages that another has begun, one member holds the partition and the others stand by.
 */
const members: Scenario = scenario(
  "order-group",
  "two subscriptions of one group that want order never run messages of one partition side by side, and one takes over from the other",
  ["X3", "X4"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const gate = Latch.makeUnsafe(false)
      const traffic = new Traffic()
      const handle = (delivery: Delivery) => {
        const n = numberOf(textOf(delivery.raw))
        return traffic.through("the partition", n, n === 0 ? gate.await : dawdle)
      }
      // few at a time, so that a broker that shares the partition gives both members some
      const member = bench.consumer(handle, {
        lanes: Lanes.partition,
        inFlight: { messages: 2 },
        grace: { drain: "5 seconds" }
      })
      const consumers = [yield* member, yield* member]
      const got = () => consumers.flatMap(({ texts }) => texts)
      const done = () => consumers.flatMap((consumer) => consumer.done)
      const wanted = numbered(30)
      for (const text of wanted) yield* bench.send(text, { key: "k" })
      yield* bench.until("one member has the first message", () => got().length > 0)
      yield* bench.quiet
      yield* same("messages that run while the first does", got(), ["m-0"])
      yield* gate.open
      yield* bench.until("all are done", () => done().length >= wanted.length, () => done().length)
      yield* traffic.verify
      yield* same("each was done once, in order", done(), wanted)
      yield* consumers.find(({ texts }) => texts.length > 0)!.stop
      yield* bench.send("m-30", { key: "k" })
      yield* bench.until("the other member goes on", () => done().includes("m-30"), done)
      yield* traffic.verify
    }),
  { needs: ["order", "groups"] }
)

/**
 * The most messages that may be taken in: fewer than the limit before a batch, plus a batch, which is no longer than the
 * limit.
 */
const held = (limit: number) => 2 * limit - 1

const saturated: Scenario = scenario(
  "saturation",
  "what is taken in and not settled is bounded; paused, nothing new starts; resumed, all goes on",
  ["X3", "X4"],
  (bench: Bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const wanted = numbered(60)
      let gate = Latch.makeUnsafe(false)
      const consumer = yield* bench.consumer(() => gate.await, {
        lanes: Lanes.unordered(100),
        inFlight: { messages: 10 }
      })
      yield* bench.sendAll(wanted)
      yield* bench.until("ten are taken in", () => consumer.got.length >= 10)
      yield* bench.quiet
      const { pending } = yield* consumer.health
      yield* ensure(pending >= 10 && pending <= held(10), () => `${pending} messages are taken in, with a limit of 10`)
      yield* consumer.running.pause
      const before = gate
      gate = Latch.makeUnsafe(true)
      yield* before.open
      const taken = consumer.got.length
      yield* bench.until("what ran is done", () => consumer.done.length === taken)
      yield* bench.quiet
      yield* same("what began while it was paused", consumer.got.length - taken, 0)
      yield* consumer.running.resume
      yield* bench.until("all are done", () => consumer.done.length === wanted.length, () => consumer.done.length)
      yield* same("each was done once", consumer.done.toSorted(), wanted.toSorted())
    })
)

const bytes: Scenario = scenario(
  "saturation-bytes",
  "what is taken in is bounded by bytes too, and one message longer than the bound still goes through",
  ["X3"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const gate = Latch.makeUnsafe(false)
      const body = "x".repeat(20_000)
      const consumer = yield* bench.consumer(() => gate.await, {
        lanes: Lanes.unordered(100),
        inFlight: { messages: 2, bytes: 10_000 }
      })
      for (const n of numbered(6)) yield* bench.send(`${body}-${n}`)
      yield* bench.until("one is taken in", () => consumer.got.length >= 1)
      yield* bench.quiet
      const { pendingBytes } = yield* consumer.health
      yield* ensure(pendingBytes <= 3 * 20_020, () => `${pendingBytes} bytes are taken in, with a limit of 10000`)
      yield* gate.open
      yield* bench.until("all are done", () => consumer.done.length === 6)
    })
)

const outcomes: Scenario = scenario(
  "redelivery",
  "what asks to be tried again is, with the attempt counted, before the next of its lane",
  ["X5", "F11"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const consumer = yield* bench.consumer(({ attempt, raw }) =>
        Effect.succeed(textOf(raw) === "again" && attempt < 4 ? Outcome.Retry() : Outcome.Ack)
      )
      yield* bench.sendAll(["again", "next"])
      yield* bench.has(consumer, ["again", "next"])
      yield* bench.until("it was tried four times", () => consumer.got.length >= 5, () => consumer.texts)
      yield* bench.sequence(
        "attempts",
        consumer.got.map(({ attempt, text }) => `${text} ${attempt}`),
        ["again 1", "again 2", "again 3", "again 4", "next 1"]
      )
    })
)

export const ordering: ReadonlyArray<Scenario> = [
  outcomes,
  partitioned,
  keyed,
  binary,
  limited,
  blocked,
  members,
  gap(
    "gap-drain",
    "no commit passes what is not settled: after a drain that comes back, and nothing before it",
    "drain"
  ),
  gap(
    "gap-cut",
    "no commit passes what is not settled: after a lost connection that comes back, and nothing before it",
    "cut"
  ),
  saturated,
  bytes
]
