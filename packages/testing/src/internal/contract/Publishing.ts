/** Scenarios of publishing: messages arrive unchanged, in order, at all consumers that should get them, and are confirmed. */
import { Broker, Channel, type Features, Publisher } from "@millrace/core"
import { Clock, Effect } from "effect"
import { type Bench, bytesOf, ensure, numbered, refusedWith, same, textOf } from "./Bench.ts"
import { arrives } from "./Content.ts"
import { browse, type Scenario, scenario } from "./Scenario.ts"

const sorted = (texts: ReadonlyArray<string>) => texts.toSorted()

/** Three messages, each with fewer parts than the one before it, read by one consumer. */
const whole = (bench: Bench, when: "before" | "after") =>
  Effect.gen(function*() {
    yield* bench.declare(1)
    const before = yield* Clock.currentTimeMillis
    const early = when === "after" ? yield* bench.reader({ name: "reader" }) : undefined
    yield* bench.send("one", { key: "a", headers: { kind: "first", "x-id": "1" } })
    yield* bench.send("two", { key: "b" })
    yield* bench.send("three")
    const consumer = early ?? (yield* bench.reader({ name: "reader" }))
    yield* bench.has(consumer, ["one", "two", "three"])
    const [one, two, three] = ["one", "two", "three"].map((text) => consumer.got.find((got) => got.text === text))
    yield* arrives(bench, one!, bytesOf("one"), "a")
    yield* arrives(bench, two!, bytesOf("two"), "b")
    yield* arrives(bench, three!, bytesOf("three"), undefined)
    yield* same("headers", { ...one!.delivery.headers }, { kind: "first", "x-id": "1" })
    yield* same("no headers", { ...two!.delivery.headers }, {})
    yield* same("attempts", consumer.got.map(({ attempt }) => attempt), [1, 1, 1])
    const { origin, timestamp } = one!.delivery
    yield* same("origin", [origin.system, origin.group, origin.handler], [
      bench.broker.system,
      bench.group,
      "reader"
    ])
    yield* ensure(
      timestamp === undefined || Math.abs(timestamp - before) < 60_000,
      () => `the time of publishing is ${timestamp}, it was ${before}`
    )
    const places = consumer.got.map(({ delivery }) => delivery.position)
    yield* ensure(places[0]! < places[1]! && places[1]! < places[2]!, () => `positions do not grow: ${places}`)
  })

export const publishing: ReadonlyArray<Scenario> = [
  scenario(
    "publish-subscribe",
    "what is published arrives as it was: body, key, headers, and where it came from",
    ["X5"],
    (bench) => whole(bench, "after")
  ),

  scenario(
    "publish-before-subscribe",
    "what was published before anyone subscribed arrives as it was",
    ["X5"],
    (bench) => whole(bench, "before"),
    { needs: ["replay"] }
  ),

  scenario(
    "publish-many-channels",
    "many channels at once each get their own messages",
    ["X5"],
    (bench) =>
      Effect.gen(function*() {
        const channels = numbered(8, bench.channel)
        const consumers = yield* Effect.forEach(
          channels,
          (channel) => Effect.andThen(bench.declare(1, channel), bench.reader({ channel })),
          { concurrency: "unbounded" }
        )
        const texts = (channel: string) => numbered(30, channel)
        yield* Effect.forEach(channels, (channel) => bench.sendAll(texts(channel), { channel }), {
          concurrency: "unbounded",
          discard: true
        })
        for (const [i, channel] of channels.entries()) yield* bench.has(consumers[i]!, texts(channel))
        yield* bench.quiet
        for (const [i, channel] of channels.entries()) {
          yield* bench.sequence(`what ${channel} got`, consumers[i]!.texts, texts(channel))
        }
      })
  ),

  scenario(
    "patterns",
    "a pattern reads every channel that fits and no other, those made later too, and each message names its own",
    ["F20", "X5"],
    (bench) =>
      Effect.gen(function*() {
        const pattern = `${bench.channel}.{region}.created`
        const of = (region: string) => `${bench.channel}.${region}.created`
        const others = [`${bench.channel}.eu.deleted`, `${bench.channel}.eu.west.created`, `${bench.channel}.created`]
        for (const channel of [of("eu"), of("us"), ...others]) yield* bench.declare(1, channel)
        const consumer = yield* bench.reader({ channel: pattern, restart: { base: 10, cap: 100 } })
        for (const channel of [of("eu"), ...others, of("us")]) yield* bench.send(channel, { channel })
        yield* bench.has(consumer, [of("eu"), of("us")])
        yield* bench.declare(1, of("new"))
        yield* bench.send(of("new"), { channel: of("new") })
        yield* bench.has(consumer, [of("new")])
        yield* bench.quiet
        yield* same("what was read", consumer.texts.toSorted(), ["eu", "new", "us"].map(of))
        yield* same("channels", consumer.got.map(({ delivery }) => delivery.channel), consumer.texts)
        yield* same("pending", (yield* consumer.health).pending, 0)
      }),
    { needs: ["patterns"] }
  ),

  scenario(
    "publish-confirm",
    "publishing completes when the broker has the message, and not before",
    ["X5"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        for (const text of numbered(10)) {
          yield* bench.send(text, { key: "k" })
          const found = yield* browse(bench)
          yield* same("the last message right after publishing", textOf(found.at(-1)?.raw ?? bytesOf("none")), text)
        }
      }),
    { needs: ["browse"] }
  ),

  scenario(
    "publish-all-order",
    "a batch arrives in the order in which it was given",
    ["X5", "F17"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const consumer = yield* bench.reader()
        const publisher = Publisher.make(Channel.bytes(bench.channel))
        const wanted = numbered(300)
        yield* publisher.publishAll(wanted.map(bytesOf), { headers: { batch: "yes" } }).pipe(
          Effect.provideService(Broker.Broker, bench.broker),
          Effect.catchTag("EncodeError", Effect.die)
        )
        yield* bench.has(consumer, wanted)
        yield* same("order", consumer.texts, wanted)
        yield* ensure(
          consumer.got.every(({ delivery }) => delivery.headers["batch"] === "yes"),
          () => "a message of the batch came without its header"
        )
      }),
    { needs: ["order"] }
  ),

  scenario(
    "publish-concurrent",
    "many publishers and the consumers of a group make an exact set",
    ["X5", "X3"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(6)
        const consumers = yield* Effect.forEach([1, 2, 3], () => bench.reader(), { concurrency: "unbounded" })
        yield* bench.shared(consumers, 6)
        const wanted = numbered(20, "p").flatMap((p) => numbered(20, p))
        yield* Effect.forEach(
          numbered(20, "p"),
          (p) => Effect.forEach(numbered(20, p), (text) => bench.send(text, { key: text }), { discard: true }),
          { concurrency: "unbounded", discard: true }
        )
        const all = () => consumers.flatMap(({ texts }) => texts)
        yield* bench.until("all arrived", () => all().length >= wanted.length, () => all().length)
        yield* bench.quiet
        yield* same("what arrived", sorted(all()), sorted(wanted))
        if (bench.capabilities.ordering === "partition") {
          yield* ensure(consumers.every(({ got }) => got.length > 0), () => "a consumer of the group got nothing")
        }
      }),
    { needs: ["groups"] }
  ),

  scenario(
    "publish-partition",
    "a message goes to the partition that it names, whatever its key; one that is not there is refused",
    ["F21"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(3)
        const consumer = yield* bench.reader()
        for (const partition of [2, 0, 1, 2]) yield* bench.send(`to ${partition}`, { key: "one", partition })
        yield* bench.until("all arrived", () => consumer.got.length === 4)
        yield* same(
          "where they are",
          consumer.got.map(({ delivery, text }) => `${text} is in ${delivery.partition}`).toSorted(),
          ["to 0 is in 0", "to 1 is in 1", "to 2 is in 2", "to 2 is in 2"]
        )
        for (const partition of [3, 1000]) {
          yield* refusedWith(`partition ${partition} of 3`, bench.send("m", { partition }), "Invalid")
        }
        for (const partition of [-1, 0.5, NaN]) {
          yield* refusedWith(`partition ${partition}`, bench.send("m", { partition }), "Invalid")
        }
        yield* bench.quiet
        yield* same("what was written", consumer.got.length, 4)
      }),
    { needs: ["chosen partitions"] }
  ),

  scenario(
    "publish-timestamp",
    "a message has the timestamp that its publisher gives it, as exactly as the capabilities say",
    ["F21"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const consumer = yield* bench.reader()
        // a broker may refuse messages older than its retention, so these timestamps are recent
        const now = yield* Clock.currentTimeMillis
        const times = [now - 1234, now - 60_001, now]
        for (const timestamp of times) yield* bench.send(String(timestamp), { timestamp })
        yield* bench.has(consumer, times.map(String))
        const kept = (time: number) => bench.capabilities.timestamps === "seconds" ? time - time % 1000 : time
        yield* same(
          "timestamps",
          Object.fromEntries(consumer.got.map(({ delivery, text }) => [text, delivery.timestamp])),
          Object.fromEntries(times.map((time) => [String(time), kept(time)]))
        )
        for (const timestamp of [-1, 0.5, NaN]) {
          yield* refusedWith(`timestamp ${timestamp}`, bench.send("m", { timestamp }), "Invalid")
        }
      }),
    { needs: ["timestamps"] }
  ),

  scenario(
    "publish-features",
    "a publisher that declares a feature is built where the broker has it, and refused where it lacks it",
    ["F21"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const consumer = yield* bench.reader()
        const channel = Channel.bytes(bench.channel)
        const { capabilities } = bench
        const has: Record<Features.Feature, boolean> = {
          partition: capabilities.partitions,
          timestamp: capabilities.timestamps !== "none",
          tombstone: capabilities.tombstones
        }
        const on = Effect.provideService(Broker.Broker, bench.broker)
        for (const feature of ["partition", "timestamp", "tombstone"] as const) {
          const publisher = Publisher.using(channel, [feature]).pipe(on)
          if (!has[feature]) {
            const error = yield* refusedWith(`a publisher that uses ${feature}`, publisher, "Unsupported")
            yield* ensure(
              error.message.includes(bench.channel) && error.message.includes(feature),
              () => `the sentence does not name ${bench.channel} and ${feature}: ${error.message}`
            )
          } else yield* publisher
        }
        yield* Publisher.using(channel, []).pipe(on)
        if (!has.tombstone) return
        const publisher = yield* Publisher.using(channel, ["tombstone"]).pipe(on)
        yield* publisher.tombstone("gone", { headers: { why: "deleted" } }).pipe(
          on,
          Effect.catchTag("EncodeError", Effect.die)
        )
        yield* bench.until("the tombstone arrived", () => consumer.got.length === 1)
        const { delivery, key } = consumer.got[0]!
        yield* same("the tombstone", [delivery.tombstone, key, delivery.headers["why"]], [true, "gone", "deleted"])
      })
  )
]
