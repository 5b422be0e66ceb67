/** Scenarios of message content: bodies, keys, headers and null bodies, byte for byte, and how browsing shows them. */
import { Broker, DeadLetters, type Delivery, Headers } from "@millrace/core"
import { Effect, Stream } from "effect"
import { type Bench, bytesOf, ensure, type Got, hex, numbered, refusedWith, same, textOf, trouble } from "./Bench.ts"
import { browse, type Fields, fieldsOf, type Scenario, scenario } from "./Scenario.ts"

/** Checks the parts of a received message against the published ones. */
export const arrives = (bench: Bench, got: Got, body: Uint8Array, key: string | undefined) =>
  Effect.gen(function*() {
    yield* same("body", hex(got.delivery.raw), hex(body))
    yield* same("key", got.key, key)
    yield* same("key bytes", hex(got.delivery.keyBytes), key === undefined ? "none" : hex(bytesOf(key)))
    yield* same("tombstone", got.delivery.tombstone, false)
    yield* same("channel", got.delivery.channel, bench.channel)
  })

/** Fields by name, in order within each name: brokers do not preserve the order between names. */
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

/** The fields that copies of a message must keep, without those that the engine adds to dead letters. */
const copied = ({ fields }: Delivery): Record<string, ReadonlyArray<string>> =>
  byName(fields.filter(([name]) => !name.startsWith("dead-letter-")))

const repeated: Scenario = scenario(
  "headers-repeated",
  "repeated headers survive browse, history and replay",
  ["F13", "X5", "F22"],
  (bench, declared) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const others = (["binary", "null"] as const).filter((kind) => declared.fields.includes(kind))
      const sent: ReadonlyArray<Headers.Field> = [
        ...fieldsOf.duplicate,
        ["thrice", bytesOf("a")],
        ["thrice", bytesOf("a")],
        ["thrice", bytesOf("")],
        ...others.flatMap((kind) => fieldsOf[kind]),
        ...(others.includes("binary") ? [["bytes", bytesOf("text")] as const] : [])
      ]
      const consumer = yield* bench.consumer(() => Effect.fail(trouble("validation")))
      yield* bench.send("m", { fields: sent })
      yield* bench.has(consumer, ["m"])
      const wanted = byName(sent)
      yield* same("fields as they are delivered", copied(consumer.got[0]!.delivery), wanted)
      if (bench.capabilities.retention) {
        const [found] = yield* browse(bench)
        yield* same("fields as browsing shows them", copied(found!), wanted)
      }
      if (bench.capabilities.replay && bench.capabilities.fanOut) {
        const later = yield* bench.reader({ group: `${bench.group}-later`, from: "earliest" })
        yield* bench.has(later, ["m"])
        yield* same("fields as a group gets them that began later", copied(later.got[0]!.delivery), wanted)
      }
      const letter = yield* bench.untilSome(
        "the dead letter is listed",
        Effect.map(Stream.runCollect(DeadLetters.list(bench.deadLetters)), ([first]) => first).pipe(
          Effect.provideService(Broker.Broker, bench.broker)
        )
      )
      yield* same("fields of the dead letter", copied(letter.delivery), wanted)
      yield* DeadLetters.replay(letter, { reach: "all" }).pipe(Effect.provideService(Broker.Broker, bench.broker))
      yield* bench.until("the replay has come", () => consumer.got.length === 2)
      yield* same("fields of the replay", copied(consumer.got[1]!.delivery), wanted)
    }),
  { needs: ["duplicate headers", "browse"] }
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

export const content: ReadonlyArray<Scenario> = [
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
        // incompressible, and with room for the broker's own overhead
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
  repeated,

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
    "browse-ends",
    "browsing ends with what was there when it began, though its reader publishes there",
    ["X5", "F22"],
    (bench) =>
      Effect.gen(function*() {
        yield* bench.declare(1)
        const wanted = numbered(300)
        yield* bench.sendAll(wanted)
        const seen: Array<string> = []
        yield* Stream.runForEachArray(bench.broker.browse(bench.channel), (found) => {
          seen.push(...found.map(({ raw }) => textOf(raw)))
          return seen.length > 1000 ? Effect.interrupt : bench.sendAll(found.map(() => "again"))
        })
        yield* same("what was read", seen, wanted)
        yield* same("what is there", (yield* browse(bench)).length, 2 * wanted.length)
      }),
    { needs: ["browse"] }
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
