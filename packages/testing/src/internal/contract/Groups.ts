/**
 * Scenarios of groups and channels: which consumer reads which messages, from which position, and how missing channels are
 * handled.
 */
import { Effect } from "effect"
import { Broken, numbered, refusedWith, same } from "./Bench.ts"
import { type Scenario, scenario } from "./Scenario.ts"

const sorted = (texts: ReadonlyArray<string>) => texts.toSorted()

export const groups: ReadonlyArray<Scenario> = [
  scenario(
    "groups",
    "each group gets all messages, and channels do not mix",
    ["X6"],
    (bench) =>
      Effect.gen(function*() {
        const other = `${bench.channel}.other`
        yield* bench.declare(3)
        yield* bench.declare(3, other)
        const groups = yield* Effect.forEach(
          numbered(3, bench.group),
          (group) => bench.reader({ group }),
          { concurrency: "unbounded" }
        )
        const elsewhere = yield* bench.reader({ channel: other })
        const wanted = numbered(50)
        yield* bench.sendAll(wanted, (key) => ({ key }))
        yield* bench.sendAll(["other"], { channel: other })
        for (const consumer of groups) yield* bench.has(consumer, wanted)
        yield* bench.has(elsewhere, ["other"])
        yield* bench.quiet
        for (const consumer of groups) yield* same("what a group got", sorted(consumer.texts), sorted(wanted))
        yield* same("what the other channel got", elsewhere.texts, ["other"])
      }),
    { needs: ["groups", "fanOut"] }
  ),

  scenario(
    "earliest-latest",
    "a new group begins where it was told to: with all there is, or with what comes",
    ["X5"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        yield* bench.sendAll(["old-1", "old-2"])
        const latest = yield* bench.reader({ from: "latest", group: `${bench.group}-latest` })
        yield* bench.send("new")
        const earliest = yield* bench.reader({ from: "earliest" })
        yield* bench.has(latest, ["new"])
        yield* bench.has(earliest, ["old-1", "old-2", "new"])
        yield* same("from the latest", latest.texts, ["new"])
        yield* bench.sequence("from the earliest", earliest.texts, ["old-1", "old-2", "new"])
      }),
    { needs: ["replay", "fanOut"] }
  ),

  scenario(
    "history",
    "groups that come one after another each catch up on all there was",
    ["X5", "X6"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        for (const round of [1, 2, 3]) {
          yield* bench.sendAll(numbered(10, `r${round}`))
          const consumer = yield* bench.reader({ group: `${bench.group}-${round}` })
          const wanted = [1, 2, 3].slice(0, round).flatMap((each) => numbered(10, `r${each}`))
          yield* bench.has(consumer, wanted)
          yield* bench.sequence("what it caught up on", consumer.texts, wanted)
        }
      }),
    { needs: ["replay", "groups", "fanOut"] }
  ),

  scenario(
    "latest-resumes",
    "a group that has a position goes on from there, whatever it is told",
    ["X5"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const first = yield* bench.reader({ from: "latest" })
        yield* bench.send("a")
        yield* bench.has(first, ["a"])
        yield* bench.until("a is acknowledged", () => bench.monitor.settledAlone + bench.monitor.committed.size > 0)
        yield* first.stop
        yield* bench.send("b")
        const second = yield* bench.reader({ from: "latest" })
        yield* bench.has(second, ["b"])
        yield* same("what the second got", second.texts, ["b"])
      }),
    { needs: ["redelivery"] }
  ),

  scenario(
    "added-partitions",
    "partitions added while the program is away are read from their beginning",
    ["X5"],
    (bench, { outage }) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        yield* bench.send("old")
        const first = yield* bench.reader({ from: "latest" })
        yield* bench.send("a")
        yield* bench.has(first, ["a"])
        yield* first.stop
        yield* Effect.mapError(
          outage.grow?.(bench.channel, 3) ?? Effect.void,
          (error) => new Broken({ message: `partitions could not be added: ${String(error)}` })
        )
        const wanted = numbered(20)
        yield* bench.sendAll(wanted, (key) => ({ key }))
        const second = yield* bench.reader({ from: "latest" })
        yield* bench.has(second, wanted)
        yield* same("what the second got", sorted(second.texts), sorted(wanted))
      }),
    { needs: ["added partitions"] }
  ),

  scenario(
    "pattern-while-away",
    "channels of a pattern made while the program is away are read from their beginning",
    ["F20", "X5"],
    (bench) =>
      Effect.gen(function*() {
        const of = (region: string) => `${bench.channel}.${region}.created`
        const options = { channel: of("{region}"), from: "latest" } as const
        yield* bench.declare(1, of("one"))
        yield* bench.send("old", { channel: of("one") })
        const first = yield* bench.reader(options)
        yield* bench.send("a", { channel: of("one") })
        yield* bench.has(first, ["a"])
        yield* first.stop
        yield* bench.declare(1, of("two"))
        yield* bench.send("b", { channel: of("two") })
        yield* bench.send("c", { channel: of("one") })
        const second = yield* bench.reader(options)
        yield* bench.has(second, ["b", "c"])
        yield* same("what the second got", sorted(second.texts), ["b", "c"])
      }),
    { needs: ["patterns", "replay", "redelivery"] }
  ),

  scenario(
    "empty-channel",
    "a consumer that is there before the first message gets it",
    ["X5"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(2)
        const consumer = yield* bench.reader()
        yield* bench.shared([consumer], 2)
        yield* bench.send("first")
        yield* bench.has(consumer, ["first"])
      })
  ),

  scenario("missing-channel", "a channel that does not exist is created, or refused with a typed error, as declared", [
    "X5"
  ], (bench, { missing }) =>
    Effect.gen(function*() {
      if (missing === "refused") {
        yield* refusedWith("subscribing to a channel that does not exist", bench.reader(), "NotFound")
        yield* refusedWith("publishing to a channel that does not exist", bench.send("m"), "NotFound")
        return
      }
      const consumer = yield* bench.reader()
      yield* bench.insist("m")
      yield* bench.has(consumer, ["m"])
    })),

  scenario(
    "declare",
    "declaring creates; again alike is fine, different is a conflict that changes nothing",
    ["X5"],
    (bench) =>
      Effect.gen(function*() {
        const { channel } = bench
        yield* bench.broker.declare({ channel, partitions: 2 })
        yield* bench.broker.declare({ channel, partitions: 2 })
        yield* bench.broker.declare({ channel })
        yield* refusedWith(
          "three partitions instead of two",
          bench.broker.declare({ channel, partitions: 3 }),
          "Conflict"
        )
        yield* refusedWith("one partition instead of two", bench.broker.declare({ channel, partitions: 1 }), "Conflict")
        const consumer = yield* bench.reader()
        yield* bench.shared([consumer], 2)
        yield* refusedWith(
          "no partitions",
          bench.broker.declare({ channel: `${channel}.none`, partitions: 0 }),
          "Invalid"
        )
      }),
    { needs: ["partitions"] }
  )
]
