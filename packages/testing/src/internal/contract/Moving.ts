/** Scenarios of a group in motion: pause and resume, members that join and leave, drain, health. */
import { Broker, type Delivery, Lanes, Outcome } from "@millrace/core"
import { Effect, Fiber, Latch, Random } from "effect"
import { type Consumer, dawdle, ensure, missing, numbered, same, textOf } from "./Bench.ts"
import { interleaved, keyOf, numberOf, Traffic } from "./Ordering.ts"
import { type Scenario, scenario } from "./Scenario.ts"

const pause: Scenario = scenario(
  "pause",
  "paused, a consumer starts nothing and keeps its partitions; resumed, it goes on where it was",
  ["X4"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(2)
      const consumer = yield* bench.reader()
      const witness = bench.capabilities.fanOut ? yield* bench.reader({ group: `${bench.group}-witness` }) : undefined
      yield* bench.shared([consumer], 2)
      yield* bench.sendAll(numbered(5, "before"))
      yield* bench.has(consumer, numbered(5, "before"))
      // The witness's leases count too, and a source may be ready before it has one.
      if (witness !== undefined) yield* bench.has(witness, numbered(5, "before"))
      yield* consumer.running.pause
      const paused = yield* consumer.health
      const { opened } = bench.monitor
      yield* same("state", paused.state, "paused")
      yield* bench.sendAll(numbered(20, "during"))
      if (witness !== undefined) yield* bench.has(witness, numbered(20, "during"))
      yield* bench.quiet
      yield* same("what began while it was paused", consumer.got.length, 5)
      yield* same("partitions while it is paused", (yield* consumer.health).partitions, paused.partitions)
      yield* consumer.running.resume
      yield* bench.has(consumer, numbered(20, "during"))
      yield* same("each once", consumer.got.length, 25)
      yield* same("leases opened by pausing", bench.monitor.opened - opened, 0)
      yield* same("state", (yield* consumer.health).state, "running")
      // more than once, and with nothing to resume
      yield* consumer.running.resume
      yield* consumer.running.pause
      yield* consumer.running.pause
      yield* consumer.running.resume
      yield* bench.sendAll(numbered(5, "after"))
      yield* bench.has(consumer, numbered(5, "after"))
    }),
  { needs: ["groups"] }
)

/** The number of redeliveries: bounded by the messages in flight at each change of the group. */
const extra = (all: ReadonlyArray<string>) => all.length - new Set(all).size

const rebalance: Scenario = scenario(
  "rebalance",
  "members join and leave while messages flow: nothing is lost, keys keep their order, little comes twice",
  ["X4", "X3"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(6)
      const inFlight = 8
      const traffic = new Traffic()
      const handle = (delivery: Delivery) => traffic.through(delivery.key, numberOf(textOf(delivery.raw)), dawdle)
      const all: Array<Consumer> = []
      const join = Effect.map(
        bench.consumer(handle, {
          lanes: Lanes.key(4),
          inFlight: { messages: inFlight },
          grace: { revoke: "5 seconds", drain: "5 seconds" }
        }),
        (consumer) => {
          all.push(consumer)
          return consumer
        }
      )
      const first = yield* join
      const wanted = interleaved(20, 30)
      const flow = yield* Effect.forkScoped(
        Effect.forEach(
          wanted,
          (text) =>
            Effect.andThen(
              bench.send(text, { key: keyOf(text) }),
              numberOf(text) % 3 === 0 ? Effect.sleep(1) : Effect.void
            ),
          { discard: true }
        )
      )
      const done = () => all.flatMap((consumer) => consumer.done)
      yield* bench.until("messages flow", () => first.done.length > 20)
      const second = yield* join
      yield* bench.until("the second works", () => second.got.length > 5, () => second.got.length)
      const third = yield* join
      yield* bench.shared([first, second, third], 6)
      yield* first.stop
      yield* bench.shared([second, third], 6)
      yield* Fiber.join(flow)
      yield* bench.until("all are done", () => new Set(done()).size === wanted.length, () => new Set(done()).size)
      yield* traffic.verify
      yield* same("what was done", [...new Set(done())].toSorted(), wanted.toSorted())
      const twice = extra(all.flatMap((consumer) => consumer.texts))
      yield* ensure(twice <= 3 * 3 * 2 * inFlight, () => `${twice} messages came twice, with ${inFlight} in flight`)
    }),
  { needs: ["groups", "partitions", "redelivery"] }
)

const handover: Scenario = scenario(
  "rebalance-finish",
  "a partition moves after what runs has finished: it is neither interrupted nor run a second time",
  ["X4"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(2)
      const gate = Latch.makeUnsafe(false)
      let interrupted = 0
      let beside = 0
      const running = new Set<string>()
      const handle = (delivery: Delivery) =>
        Effect.suspend(() => {
          const text = textOf(delivery.raw)
          if (running.has(text)) beside++
          running.add(text)
          return Effect.onExit(gate.await, (exit) =>
            Effect.sync(() => {
              running.delete(text)
              if (exit._tag === "Failure") interrupted++
            }))
        })
      const first = yield* bench.consumer(handle, {
        lanes: Lanes.unordered(100),
        grace: { revoke: "20 seconds", drain: 0 }
      })
      yield* bench.shared([first], 2)
      const wanted = numbered(16)
      yield* bench.sendAll(wanted, (key) => ({ key }))
      yield* bench.until("all run", () => running.size === wanted.length)
      yield* same("partitions of what runs", new Set(first.got.map(({ delivery }) => delivery.partition)).size, 2)
      const second = yield* Effect.forkScoped(bench.consumer(handle))
      yield* bench.quiet
      yield* gate.open
      const other = yield* Fiber.join(second)
      yield* bench.shared([first, other], 2)
      yield* bench.until("all are done", () => first.done.length + other.done.length >= wanted.length)
      yield* bench.sendAll(["end-0", "end-1", "end-2"], (key) => ({ key }))
      yield* bench.until("the next are done", () => first.done.length + other.done.length >= wanted.length + 3)
      yield* bench.quiet
      yield* same("handlers that were interrupted", interrupted, 0)
      yield* same("handlers that ran beside themselves", beside, 0)
      yield* same("what the first had begun it finished", missing(first.done, wanted), [])
      yield* same("each once", first.got.length + other.got.length, wanted.length + 3)
    }),
  { needs: ["groups", "partitions"] }
)

const leave: Scenario = scenario(
  "leave",
  "who leaves gives up its partitions, and the others take over what it had not done",
  ["X4"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(4)
      const first = yield* bench.consumer(() => Effect.never, { lanes: Lanes.unordered(100) })
      const second = yield* bench.reader({ lanes: Lanes.unordered(100) })
      yield* bench.shared([first, second], 4)
      const wanted = numbered(40)
      yield* bench.sendAll(wanted, (key) => ({ key }))
      yield* bench.until("all arrived", () => first.got.length + second.got.length === wanted.length)
      yield* first.stop
      yield* bench.has(second, wanted)
      yield* same("each once at the one who stays", second.texts.toSorted(), wanted.toSorted())
      yield* same("state of the one who left", (yield* first.health).state, "stopped")
    }),
  { needs: ["groups", "redelivery"] }
)

const drain: Scenario = scenario(
  "drain",
  "a drain lets what runs finish up to its deadline, releases the rest, and starts nothing",
  ["X4"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const draining: Array<boolean> = []
      let interrupted = 0
      const gate = Latch.makeUnsafe(false)
      const consumer = yield* bench.consumer(({ raw }) => {
        const text = textOf(raw)
        const look = Effect.map(Effect.service(Broker.Draining), ({ isDraining }) => void draining.push(isDraining()))
        return text === "quick"
          ? Effect.andThen(gate.await, look)
          : text === "stuck"
          ? Effect.onInterrupt(Effect.never, () => Effect.sync(() => void interrupted++))
          : Effect.void
      }, { lanes: Lanes.key(2), grace: { drain: "300 millis" } })
      yield* bench.sendAll(["quick", "stuck", "next", "last"], (key) => ({ key }))
      yield* bench.has(consumer, ["quick", "stuck"])
      const stopping = yield* Effect.forkScoped(consumer.running.drain)
      yield* bench.untilSome(
        "it drains",
        Effect.map(consumer.health, ({ state }) => state === "draining" ? true : undefined)
      )
      yield* gate.open
      yield* Fiber.join(stopping)
      yield* bench.quiet
      yield* same("what began", consumer.texts, ["quick", "stuck"])
      yield* same("what finished", consumer.done, ["quick"])
      yield* same("what was interrupted", interrupted, 1)
      yield* same("what handlers were told", draining, [true])
      const second = yield* bench.reader()
      yield* bench.has(second, ["stuck", "next", "last"])
      yield* bench.sequence("what came back", second.texts, ["stuck", "next", "last"])
    }),
  { needs: ["redelivery"] }
)

const stress: Scenario = scenario(
  "start-stop",
  "consumers that start and stop at once disturb neither the others nor what comes after",
  ["X4"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(2)
      yield* Effect.forEach(
        numbered(6),
        () =>
          Effect.gen(function*() {
            const consumer = yield* bench.reader()
            yield* Effect.sleep(yield* Random.nextIntBetween(0, 5))
            yield* consumer.stop
          }),
        { concurrency: "unbounded", discard: true }
      )
      const consumer = yield* bench.reader()
      const wanted = numbered(50)
      yield* bench.sendAll(wanted, (key) => ({ key }))
      yield* bench.has(consumer, wanted)
      yield* same("each once", consumer.texts.toSorted(), wanted.toSorted())
    }),
  { needs: ["groups"] }
)

const health: Scenario = scenario(
  "health",
  "health shows partitions, what is pending, what is done, and which lane is stuck: its key, since when, how much waits behind",
  ["X4", "X15"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(2)
      const gate = Latch.makeUnsafe(false)
      const consumer = yield* bench.consumer(
        ({ attempt, raw }) =>
          textOf(raw) === "stuck"
            ? gate.await
            : Effect.succeed(
              textOf(raw) === "again" && attempt === 1 ? Outcome.Retry({ after: "1 minute" }) : undefined
            ),
        { name: "watched", lanes: Lanes.key(8) }
      )
      yield* bench.shared([consumer], 2)
      yield* bench.send("done", { key: "a" })
      yield* bench.has(consumer, ["done"])
      yield* bench.send("stuck", { key: "culprit" })
      yield* bench.has(consumer, ["stuck"])
      yield* bench.send("again", { key: "other" })
      yield* bench.has(consumer, ["again"])
      yield* bench.send("behind", { key: "culprit" })
      const busy = yield* bench.untilSome(
        "one waits behind it",
        Effect.map(consumer.health, (each) => each.lanes[0]?.behind === 1 ? each : undefined),
        () => consumer.health
      )
      yield* same(
        "what it says of itself",
        [busy.name, busy.channel, busy.group, busy.state, busy.restarts],
        ["watched", bench.channel, bench.group, "running", 0]
      )
      const { position } = consumer.got[1]!.delivery
      yield* same("oldest", [busy.oldest?.key, busy.oldest?.position], ["culprit", position])
      yield* same("in numbers", [busy.pending, busy.pendingBytes, busy.running, busy.settled], [3, 16, 1, 1])
      yield* same(
        "lanes",
        busy.lanes.map(({ attempt, behind, channel, key, state }) => [key, state, attempt, behind, channel]),
        [["culprit", "running", 1, 1, bench.channel], ["other", "retry", 2, 0, bench.channel]]
      )
      yield* same("pending by lease", busy.leases.reduce((sum, { pending }) => sum + pending, 0), 3)
      yield* ensure(
        busy.lastPoll !== undefined && busy.oldest!.since >= busy.lastPoll - 60_000,
        () => `the last sign of life is ${busy.lastPoll}`
      )
      yield* gate.open
      const idle = yield* bench.untilSome(
        "it is idle",
        Effect.map(consumer.health, (each) => each.pending === 1 ? each : undefined)
      )
      yield* same("idle", [idle.pendingBytes, idle.running, idle.settled, idle.oldest], [5, 0, 3, undefined])
      yield* same("lanes that are left", idle.lanes.map(({ key, state }) => [key, state]), [["other", "retry"]])
    })
)

const competing: Scenario = scenario(
  "competing",
  "consumers that ask for no order share the messages of a channel, each once",
  ["X3", "T16"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(4)
      const consumers = yield* Effect.forEach(
        [1, 2, 3],
        () => bench.consumer(() => dawdle, { lanes: Lanes.unordered(4), inFlight: { messages: 8 } }),
        { concurrency: "unbounded" }
      )
      yield* bench.shared(consumers, 4)
      const wanted = numbered(300)
      yield* bench.sendAll(wanted, (key) => ({ key }))
      const all = () => consumers.flatMap(({ texts }) => texts)
      yield* bench.until("all are done", () => consumers.flatMap(({ done }) => done).length >= wanted.length)
      yield* bench.quiet
      yield* same("each once", all().toSorted(), wanted.toSorted())
    }),
  { needs: ["groups"] }
)

const relay: Scenario = scenario(
  "continue-after-close",
  "one consumer after another goes on where the last one left, and all is done in the end",
  ["X4", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(2)
      const wanted = numbered(60)
      const done = new Set<string>()
      let begun = false
      for (let round = 0; done.size < wanted.length; round++) {
        yield* ensure(round < 40, () => `after ${round} consumers only ${done.size} of ${wanted.length} are done`)
        const consumer = yield* bench.consumer(
          ({ raw }) => Effect.andThen(dawdle, Effect.sync(() => void done.add(textOf(raw)))),
          { grace: { drain: "5 seconds" } }
        )
        if (!begun) yield* bench.sendAll(wanted, (key) => ({ key }))
        begun = true
        const enough = Math.min(wanted.length, done.size + 12)
        yield* bench.until("it did its share", () => done.size >= enough, () => done.size)
        yield* consumer.stop
      }
      const last = yield* bench.reader()
      yield* bench.send("end")
      yield* bench.has(last, ["end"])
      yield* same("what was left", last.texts, ["end"])
    }),
  { needs: ["redelivery"] }
)

const troubled: Scenario = scenario(
  "continue-after-errors",
  "what consumers could not handle and gave back a sound one gets whole",
  ["X4", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(2)
      const wanted = numbered(40)
      const sick = yield* bench.consumer(() => Effect.succeed(Outcome.Retry({ after: "1 minute" })), {
        lanes: Lanes.key(100)
      })
      yield* bench.sendAll(wanted, (key) => ({ key }))
      yield* bench.has(sick, wanted)
      yield* sick.stop
      const sound = yield* bench.reader()
      yield* bench.has(sound, wanted)
      yield* bench.quiet
      yield* same("each once", sound.texts.toSorted(), wanted.toSorted())
    }),
  { needs: ["redelivery"] }
)

const lag: Scenario = scenario(
  "lag",
  "the broker counts how far a group is behind: what waits, and nothing when all is done",
  ["X15"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(2)
      const behind = Effect.map(
        bench.broker.lag(bench.channel, bench.group),
        (lags) => lags.reduce((sum, { messages }) => sum + messages, 0)
      )
      yield* same("a group that nobody knows", yield* bench.broker.lag(bench.channel, `${bench.group}-none`), [])
      const gate = Latch.makeUnsafe(false)
      const consumer = yield* bench.consumer(({ raw }) => textOf(raw) === "first" ? Effect.void : gate.await, {
        lanes: Lanes.key(2)
      })
      yield* bench.send("first", { key: "k" })
      yield* bench.has(consumer, ["first"])
      yield* bench.untilSome("it is settled", Effect.map(behind, (messages) => messages === 0 ? true : undefined))
      const wanted = numbered(10)
      yield* bench.sendAll(wanted, { key: "k" })
      yield* bench.untilSome(
        "ten wait",
        Effect.map(behind, (messages) => messages === 10 ? true : undefined),
        () => behind
      )
      yield* gate.open
      yield* bench.has(consumer, wanted)
      yield* bench.untilSome("none waits", Effect.map(behind, (messages) => messages === 0 ? true : undefined))
    }),
  { needs: ["lag", "redelivery"] }
)

export const moving: ReadonlyArray<Scenario> = [
  pause,
  rebalance,
  handover,
  leave,
  drain,
  stress,
  competing,
  relay,
  troubled,
  health,
  lag
]
