/** Scenarios of dead letters: the unchanged message with its error, written once, and its replay. */
import {
  Broker,
  Channel,
  DeadLetters,
  Decode,
  type Delivery,
  Lanes,
  Outcome,
  Replays,
  Subscription
} from "@millrace/core"
import { Effect, pipe, Schema, Scope, Stream } from "effect"
import { type Bench, bytesOf, ensure, hex, numbered, same, textOf, trouble } from "./Bench.ts"
import { browse, type Fields, fieldsOf, lacks, type Scenario, scenario } from "./Scenario.ts"

const body = Uint8Array.from([0, 255, 254, 1, 128, 10])
const keyBytes = Uint8Array.from([255, 0, 107])

const list = (bench: Bench) =>
  Stream.runCollect(DeadLetters.list(bench.deadLetters)).pipe(Effect.provideService(Broker.Broker, bench.broker))

const replay = (bench: Bench, letter: DeadLetters.DeadLetter) =>
  DeadLetters.replay(letter, { reach: "all" }).pipe(Effect.provideService(Broker.Broker, bench.broker))

const ownFields = (delivery: Delivery): ReadonlyArray<string> =>
  delivery.fields.filter(([name]) => !name.startsWith("dead-letter-")).map(([name, value]) => `${name}=${hex(value)}`)
    .toSorted()

const whole: Scenario = scenario(
  "dead-letter",
  "a dead letter is the message as it came, with where it came from and why it ended",
  ["F13", "X5"],
  (bench, declared) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const kinds: ReadonlyArray<Fields> = ["duplicate", "binary", "null", "case", "control"]
      const fields = kinds.filter((kind) => lacks([`${kind} headers`], bench, declared).length === 0).flatMap((kind) =>
        fieldsOf[kind]
      )
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(({ attempt, raw }) =>
        textOf(raw) === "before"
          ? Effect.void
          : attempt < 3
          ? Effect.succeed(Outcome.Retry())
          : Effect.fail(trouble("permanent")), {
        name: "giver"
      })
      yield* bench.send("before", { key: "k" })
      yield* bench.send(body, {
        headers: { "x-id": "7", empty: "" },
        ...fields.length === 0 ? {} : { fields },
        ...declared.fields.includes("binary") ? { keyBytes } : { key: "k" }
      })
      yield* bench.until("the dead letter is there", () => letters.got.length === 1)
      const original = consumer.got[1]!.delivery
      const { delivery } = letters.got[0]!
      yield* same("body", hex(delivery.raw), hex(body))
      yield* same("key bytes", hex(delivery.keyBytes), hex(original.keyBytes))
      yield* same("native headers", ownFields(delivery), ownFields(original))
      const { names } = DeadLetters
      const value = (name: string) => delivery.headers[name]
      yield* same(
        "where it came from",
        [names.channel, names.partition, names.position, names.group, names.handler].map(value),
        [
          bench.channel,
          String(original.partition),
          String(original.position),
          bench.group,
          "giver"
        ]
      )
      yield* same("its time", value(names.timestamp), original.timestamp?.toString())
      yield* same("why it ended", [names.errorType, names.errorMessage, names.attempts, names.passes].map(value), [
        "Trouble",
        "a permanent trouble",
        "3",
        "1"
      ])
      yield* ensure(
        Number(value(names.at)) >= (original.timestamp ?? 0) - 60_000,
        () => `it says that it ended at ${value(names.at)}`
      )
      yield* bench.untilSome(
        "the message is settled",
        Effect.map(consumer.health, ({ pending }) => pending === 0 || undefined)
      )
    })
)

const listed: Scenario = scenario(
  "dead-letter-replay",
  "dead letters are listed and replayed as they were; one that comes back grows no headers",
  ["F13"],
  (bench, declared) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const fields = declared.fields.includes("binary") ? { fields: fieldsOf.binary, keyBytes } : { key: "k" }
      const consumer = yield* bench.consumer(() => Effect.fail(trouble("validation")))
      yield* same("before any", yield* list(bench), [])
      yield* bench.send(body, { ...fields, headers: { "x-id": "7" } })
      const first = yield* bench.untilSome("it is listed", Effect.map(list(bench), (letters) => letters[0]))
      yield* same("what is listed", [first.channel, first.group, first.errorType, first.attempts, first.passes], [
        bench.channel,
        bench.group,
        "Trouble",
        1,
        1
      ])
      yield* replay(bench, first)
      const second = yield* bench.untilSome("it is there again", Effect.map(list(bench), (letters) => letters[1]))
      const [once, again] = consumer.got
      yield* same("body of the replay", hex(again!.delivery.raw), hex(body))
      yield* same("key of the replay", hex(again!.delivery.keyBytes), hex(once!.delivery.keyBytes))
      yield* same("headers of the replay", ownFields(again!.delivery), ownFields(once!.delivery))
      yield* same("passes", second.passes, 2)
      yield* same("headers of both", names(second.delivery), names(first.delivery))
      yield* replay(bench, second)
      const third = yield* bench.untilSome("it is there a third time", Effect.map(list(bench), (letters) => letters[2]))
      yield* same("passes", third.passes, 3)
      yield* same("headers of all", names(third.delivery), names(first.delivery))
      yield* same("dead letters in all", (yield* list(bench)).length, 3)
      if (bench.capabilities.retention) {
        yield* same("messages in the channel", (yield* browse(bench)).length, 3)
      }
    }),
  { needs: ["browse"] }
)

const toGroup: Scenario = scenario(
  "dead-letter-replay-group",
  "a replay reaches the group that failed and no other, and a second run skips what was replayed",
  ["F22"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const seen: Array<Delivery> = []
      let isBroken = true
      const subscription = Subscription.make(
        Channel.bytes(bench.channel),
        {
          group: bench.group,
          name: "failing",
          restart: { base: 10, cap: 500 },
          lanes: bench.capabilities.ordering === "none" ? Lanes.unordered(1) : Lanes.partition
        },
        (delivery: Delivery) => {
          seen.push(delivery)
          return isBroken ? Effect.fail(trouble("permanent")) : Effect.void
        }
      )
      const start = <A, E, R>(run: Effect.Effect<A, E, R>) =>
        run.pipe(Effect.provideService(Broker.Broker, bench.broker), Scope.provide(bench.scope))
      yield* start(Subscription.run(subscription))
      yield* start(Replays.run(subscription))
      const other = bench.capabilities.fanOut ? yield* bench.reader({ group: `${bench.group}-other` }) : undefined
      const wanted = numbered(3)
      yield* bench.sendAll(wanted, { key: "k" })
      yield* bench.untilSome("all are listed", Effect.map(list(bench), ({ length }) => length === 3 || undefined))
      isBroken = false
      const run = Stream.runCollect(DeadLetters.replayAll(bench.deadLetters)).pipe(
        Effect.provideService(Broker.Broker, bench.broker),
        Effect.map((all) => all.map(({ how, letter }) => `${textOf(letter.delivery.raw)} ${how}`).toSorted())
      )
      yield* same("the first run", yield* run, wanted.map((text) => `${text} published`))
      yield* bench.until("all were replayed", () => seen.length >= 6, () => seen.length)
      yield* same("the second run", yield* run, wanted.map((text) => `${text} already`))
      yield* bench.quiet
      const told = ({ channel, key, position, raw }: Delivery) => [textOf(raw), channel, key, position].join(" ")
      yield* same("what was replayed", seen.slice(3).map(told).toSorted(), seen.slice(0, 3).map(told).toSorted())
      if (other !== undefined) yield* same("what another group got", other.texts.toSorted(), wanted)
    }),
  { needs: ["browse"] }
)

const names = (delivery: Delivery) => delivery.fields.map(([name]) => name).toSorted()

const once: Scenario = scenario(
  "dead-letter-once",
  "however often it was tried, a message that fails for good leaves one dead letter, and the next goes on",
  ["F13"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(
        ({ raw }) => textOf(raw).startsWith("bad") ? Effect.fail(trouble("transient")) : Effect.void,
        { hold: { attempts: 3 } }
      )
      yield* bench.sendAll(["bad-0", "good-0", "bad-1", "good-1"])
      yield* bench.has(consumer, ["good-0", "good-1"])
      yield* bench.has(letters, ["bad-0", "bad-1"])
      yield* bench.quiet
      yield* bench.sequence("dead letters", letters.texts, ["bad-0", "bad-1"])
      yield* same("attempts", letters.got.map(({ delivery }) => delivery.headers[DeadLetters.names.attempts]), [
        "3",
        "3"
      ])
      yield* bench.sequence("handled", consumer.texts, [
        "bad-0",
        "bad-0",
        "bad-0",
        "good-0",
        "bad-1",
        "bad-1",
        "bad-1",
        "good-1"
      ])
    })
)

const poison: Scenario = scenario(
  "poison",
  "bytes that cannot be read go to the dead letters as they are, and stall nothing",
  ["F13", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const Numbers = Channel.make(bench.channel, { payload: Schema.Struct({ n: Schema.Finite }) })
      const read: Array<number> = []
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(pipe(
        (message: { readonly payload: { readonly n: number } }) => Effect.sync(() => void read.push(message.payload.n)),
        Decode.middleware(Numbers)
      ))
      const bad: ReadonlyArray<Uint8Array> = [
        body,
        bytesOf("{\"n\":"),
        bytesOf("{\"n\":\"one\"}"),
        new Uint8Array(0),
        Uint8Array.from([123, 34, 110, 34, 58, 34, 192, 34, 125])
      ]
      for (const [i, each] of bad.entries()) {
        yield* bench.send(`{"n":${i}}`, { key: "k" })
        yield* bench.send(each, { key: "k" })
      }
      yield* bench.until("all are dead letters", () => letters.got.length === bad.length, () => letters.got.length)
      yield* same("bodies", letters.got.map(({ delivery }) => hex(delivery.raw)), bad.map(hex))
      yield* same("what was read", read, bad.map((_, i) => i))
      yield* same(
        "errors",
        [...new Set(letters.got.map(({ delivery }) => delivery.headers[DeadLetters.names.errorType]))],
        ["DecodeError"]
      )
      yield* bench.untilSome("all is settled", Effect.map(consumer.health, ({ pending }) => pending === 0 || undefined))
    })
)

const defects: Scenario = scenario(
  "defect",
  "a handler that throws or dies leaves a dead letter, and the next goes on",
  ["F13"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(({ raw }) => {
        const text = textOf(raw)
        if (text === "m-0") throw new TypeError("thrown")
        return text === "m-1"
          ? Effect.die(new RangeError("died"))
          : text === "m-2"
          ? Effect.andThen(Effect.sleep(1), Effect.die("a text"))
          : Effect.void
      })
      yield* bench.sendAll(numbered(4))
      yield* bench.has(consumer, ["m-3"])
      yield* bench.has(letters, numbered(3))
      const value = (name: string) => letters.got.map(({ delivery }) => delivery.headers[name])
      yield* same("errors", value(DeadLetters.names.errorType), ["TypeError", "RangeError", "string"])
      yield* same("messages", value(DeadLetters.names.errorMessage), ["thrown", "died", "a text"])
    })
)

const tombstones: Scenario = scenario(
  "dead-letter-tombstone",
  "the dead letter of a tombstone is a tombstone, and so is its replay",
  ["F13"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const consumer = yield* bench.consumer(({ attempt, tombstone }) =>
        attempt === 1 && tombstone ? Effect.fail(trouble("permanent")) : Effect.void
      )
      yield* bench.send("", { key: "k", tombstone: true })
      const letter = yield* bench.untilSome("it is listed", Effect.map(list(bench), (letters) => letters[0]))
      yield* same("the letter", [letter.delivery.tombstone, letter.delivery.key], [true, "k"])
      yield* replay(bench, letter)
      yield* bench.until("it is back", () => consumer.got.length === 2)
      yield* same("the replay", [consumer.got[1]!.delivery.tombstone, consumer.got[1]!.key], [true, "k"])
    }),
  { needs: ["tombstones", "browse"] }
)

export const letters: ReadonlyArray<Scenario> = [whole, listed, toGroup, once, poison, defects, tombstones]
