/**
 * Scenarios of publishing: what was published arrives as it was, in order, to all who should have it, and is confirmed.
 */
import { Broker, Channel, Headers, Publisher } from "@millrace/core"
import { Clock, Effect } from "effect"
import { type Bench, bytesOf, ensure, type Got, hex, numbered, refusedWith, same, textOf } from "./Bench.ts"
import { browse, type Fields, fieldsOf, type Scenario, scenario } from "./Scenario.ts"

const sorted = (texts: ReadonlyArray<string>) => texts.toSorted()

/** What a publisher can say, and what must come out of it. */
const arrives = (bench: Bench, got: Got, body: Uint8Array, key: string | undefined) =>
  Effect.gen(function*() {
    yield* same("body", hex(got.delivery.raw), hex(body))
    yield* same("key", got.key, key)
    yield* same("key bytes", hex(got.delivery.keyBytes), key === undefined ? "none" : hex(bytesOf(key)))
    yield* same("tombstone", got.delivery.tombstone, false)
    yield* same("channel", got.delivery.channel, bench.channel)
  })

/** Fields by name, each name's in order: brokers do not tell the order between names. */
const byName = (fields: ReadonlyArray<Headers.Field>): Record<string, ReadonlyArray<string>> => {
  const names: Record<string, Array<string>> = {}
  for (const [name, value] of fields) (names[name] ??= []).push(hex(value))
  return Object.fromEntries(Object.entries(names).toSorted(([a], [b]) => a < b ? -1 : 1))
}

const byHeader = (headers: Headers.Headers) => Object.entries(headers).toSorted(([a], [b]) => a < b ? -1 : 1)

const fields = (kind: Fields): Scenario =>
  scenario(
    `headers-${kind}`,
    `header fields keep what text cannot hold: ${kind}`,
    ["F13", "F4"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const consumer = yield* bench.reader()
        yield* bench.send("m", { headers: { plain: "text" }, fields: fieldsOf[kind] })
        yield* bench.has(consumer, ["m"])
        const { delivery } = consumer.got[0]!
        const sent: ReadonlyArray<Headers.Field> = [...fieldsOf[kind], ["plain", bytesOf("text")]]
        yield* same("fields", byName(delivery.fields), byName(sent))
        yield* same("the text of the fields", byHeader(delivery.headers), byHeader(Headers.fromFields(sent)))
      }),
    { needs: [`${kind} headers`] }
  )

const payload = (id: string, title: string, body: () => Uint8Array): Scenario =>
  scenario(`payload-${id}`, `a body arrives byte for byte: ${title}`, ["X5"], (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const consumer = yield* bench.reader()
      yield* bench.send(body(), { key: "k" })
      yield* bench.send("after", { key: "k" })
      yield* bench.until("both arrived", () => consumer.got.length === 2)
      yield* arrives(bench, consumer.got[0]!, body(), "k")
    }))

const binary = () => Uint8Array.from({ length: 1024 }, (_, i) => i * 7 & 255)
const texts = ["ünï", "漢字", "😀", "e\u0301", "\u2028", "a b  c", "%00", "\"'\\"]

/** Three messages, each with less than the one before it, read by one consumer. */
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
  ),

  scenario(
    "too-large",
    "what is longer than the broker takes is refused as TooLarge, and the rest goes on",
    ["X5"],
    (bench, { maximumBytes = 0 }) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const consumer = yield* bench.reader()
        const long = new Uint8Array(maximumBytes * 2).fill(1)
        const error = yield* refusedWith("a body of twice the limit", bench.send(long, { key: "k" }), "TooLarge")
        yield* same("class", error.failure, "permanent")
        // incompressible, and with room for what the broker adds
        const largest = Uint8Array.from(
          { length: Math.floor(maximumBytes * 0.98) },
          (_, i) => (i * 2_654_435_761 >>> 11) & 255
        )
        yield* bench.send(largest, { key: "k" })
        yield* bench.until("the largest arrived", () => consumer.got.length === 1)
        yield* ensure(
          Buffer.from(consumer.got[0]!.delivery.raw).equals(largest),
          () => "the largest body arrived changed"
        )
      }),
    { needs: ["limit"] }
  ),

  payload("empty", "empty", () => new Uint8Array(0)),
  payload("binary", "every byte, not UTF-8", binary),
  payload("huge", "half a MiB", () => Uint8Array.from({ length: 512 * 1024 }, (_, i) => (i * 31 + (i >> 8)) & 255)),

  scenario(
    "unicode",
    "keys, headers and bodies keep their text, whatever it is",
    ["X5"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const consumer = yield* bench.reader()
        for (const text of texts) yield* bench.send(text, { key: text, headers: { text, empty: "" } })
        yield* bench.has(consumer, texts)
        yield* same("bodies", consumer.texts, texts)
        yield* same("keys", consumer.got.map(({ key }) => key), texts)
        yield* same("headers", consumer.got.map(({ delivery }) => delivery.headers["text"]), texts)
        yield* same("empty headers", consumer.got.map(({ delivery }) => delivery.headers["empty"]), texts.map(() => ""))
      })
  ),

  fields("duplicate"),
  fields("binary"),
  fields("null"),
  fields("case"),
  fields("control"),

  scenario(
    "headers-native-rule",
    "a native field replaces the text header of its name",
    ["F13"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const consumer = yield* bench.reader()
        yield* bench.send("m", { headers: { same: "text", other: "text" }, fields: [["same", bytesOf("field")]] })
        yield* bench.has(consumer, ["m"])
        yield* same("fields", byName(consumer.got[0]!.delivery.fields), {
          other: [hex(bytesOf("text"))],
          same: [hex(bytesOf("field"))]
        })
      })
  ),

  scenario(
    "tombstone",
    "a null body is a tombstone, and an empty body is none",
    ["X5"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const consumer = yield* bench.reader()
        yield* bench.send("value", { key: "k" })
        yield* bench.send("", { key: "k" })
        yield* bench.send("", { key: "k", tombstone: true })
        yield* bench.until("three arrived", () => consumer.got.length === 3)
        yield* same("tombstones", consumer.got.map(({ delivery }) => delivery.tombstone), [false, false, true])
        yield* same("length of a null body", consumer.got[2]!.delivery.raw.length, 0)
        yield* same("key of a tombstone", consumer.got[2]!.key, "k")
      }),
    { needs: ["tombstones"] }
  ),

  scenario(
    "browse",
    "browsing shows what there is, oldest first, and consumes nothing",
    ["X5", "F13"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        yield* same("an empty channel", yield* browse(bench), [])
        const wanted = numbered(20)
        yield* bench.sendAll(wanted, (key) => ({ key, headers: { key } }))
        for (const _ of [1, 2]) {
          const found = yield* browse(bench)
          yield* same("what is there", found.map(({ raw }) => textOf(raw)), wanted)
          yield* same("headers", found.map(({ headers }) => headers["key"]), wanted)
        }
        const consumer = yield* bench.reader()
        yield* bench.has(consumer, wanted)
        yield* same("what is left to consume", consumer.texts, wanted)
        if (bench.capabilities.retention) {
          yield* same("what is there afterwards", (yield* browse(bench)).length, wanted.length)
        }
      }),
    { needs: ["browse"] }
  )
]
