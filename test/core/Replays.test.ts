import { assert, describe, it } from "@effect/vitest"
import {
  Broker,
  BrokerError,
  Channel,
  DeadLetters,
  type Delivery,
  Headers,
  Lanes,
  MemoryBroker,
  Middleware,
  Outgoing,
  Replays,
  Subscription
} from "@millrace/core"
import { Data, Deferred, Effect, Layer, Logger, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"

class Refused extends Data.TaggedError("Refused")<{}> {
  readonly failure = "permanent" as const
}

const text = (delivery: Delivery) => new TextDecoder().decode(delivery.raw)
const bytes = (text: string) => new TextEncoder().encode(text)

interface Seen {
  readonly text: string
  readonly delivery: Delivery
}

/** A group whose handler fails while `broken` says so, and its replays; what each of both has seen. */
const group = (name: string, broken: () => boolean = () => false, channel = "orders") =>
  Effect.gen(function*() {
    const seen: Array<Seen> = []
    const subscription = Subscription.make(
      Channel.bytes(channel),
      { group: name, name: `${name}Handler`, lanes: Lanes.partition },
      (delivery: Delivery) => {
        seen.push({ text: text(delivery), delivery })
        return broken() ? Effect.fail(new Refused()) : Effect.void
      }
    )
    yield* Subscription.run(subscription)
    yield* Replays.run(subscription)
    return seen
  })

const publish = (text: string, channel = "orders", headers: Headers.Headers = Headers.empty, key?: string) =>
  Effect.flatMap(Broker.Broker, (broker) => broker.publish(new Outgoing(channel, bytes(text), key, headers)))

const settle = TestClock.adjust("1 minute")

const letters = "orders.dead-letters"

const replayAll = (options: DeadLetters.ReplayOptions<Broker.Broker, never, never> = {}) =>
  Effect.map(
    Stream.runCollect(DeadLetters.replayAll(letters, options)),
    (all) => all.map(({ how, letter }) => `${text(letter.delivery)} ${how}`)
  )

const texts = (seen: ReadonlyArray<Seen>) => seen.map(({ text }) => text)

const memory = MemoryBroker.layer({ partitions: 1 })

describe("Replays", () => {
  it.effect("F22 a replay reaches the group that failed and no other, as the message was in its own channel", () =>
    Effect.gen(function*() {
      let isBroken = true
      const billing = yield* group("billing", () => isBroken)
      const mail = yield* group("mail")
      yield* TestClock.setTime(5000)
      yield* publish("first")
      yield* publish("second", "orders", { trace: "t" }, "k")
      yield* settle
      isBroken = false
      assert.deepStrictEqual(yield* replayAll(), ["first published", "second published"])
      yield* settle
      assert.deepStrictEqual(texts(mail), ["first", "second"])
      assert.deepStrictEqual(texts(billing), ["first", "second", "first", "second"])
      const [, before, , after] = billing.map(({ delivery }) => delivery)
      const { channel, key, partition, position, timestamp } = after!
      assert.deepStrictEqual({ channel, key, partition, position, timestamp }, {
        channel: "orders",
        key: "k",
        partition: 0,
        position: before!.position,
        timestamp: 5000
      })
      assert.deepStrictEqual([after!.origin.group, after!.origin.handler], ["billing", "billingHandler"])
      assert.deepStrictEqual(Object.keys(after!.headers).sort(), [
        "dead-letter-passes",
        "dead-letter-replay-id",
        "dead-letter-replayed",
        "trace"
      ])
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 by choice it reaches all groups; what was replayed to one target is not skipped for another", () =>
    Effect.gen(function*() {
      let isBroken = true
      const billing = yield* group("billing", () => isBroken)
      const mail = yield* group("mail")
      yield* publish("m")
      yield* settle
      isBroken = false
      assert.deepStrictEqual(yield* replayAll({ reach: "all" }), ["m published"])
      assert.deepStrictEqual(yield* replayAll(), ["m published"])
      assert.deepStrictEqual(yield* replayAll({ to: "repaired" }), ["m published"])
      yield* settle
      assert.deepStrictEqual([texts(billing).length, texts(mail).length], [3, 2])
      // @ts-expect-error there are two
      assert.throws(() => DeadLetters.replayAll(letters, { reach: "some" }), RangeError, "reach")
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 a second run skips what was replayed, and says so; a run of another name replays it once more", () =>
    Effect.gen(function*() {
      const lines: Array<string> = []
      const logger = Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))])
      let isBroken = true
      const billing = yield* group("billing", () => isBroken)
      yield* publish("one")
      yield* settle
      isBroken = false
      yield* replayAll()
      yield* settle
      yield* publish("two")
      isBroken = true
      yield* publish("three")
      yield* settle
      isBroken = false
      const again = Effect.provide(replayAll(), logger)
      assert.deepStrictEqual(yield* again, ["one already", "two published", "three published"])
      assert.deepStrictEqual(lines, [
        "Replayed 2 dead letters of orders.dead-letters; skipped 1 that were replayed before, 0 that were discarded, 0 that are incomplete, and 0 that the broker refuses"
      ])
      assert.deepStrictEqual(yield* replayAll(), ["one already", "two already", "three already"])
      const [first] = yield* Stream.runCollect(DeadLetters.list(letters))
      assert.strictEqual((yield* DeadLetters.replay(first!)).how, "already")
      assert.strictEqual((yield* DeadLetters.replay(first!, { run: "again" })).how, "published")
      yield* settle
      assert.deepStrictEqual(texts(billing).filter((each) => each === "one").length, 3)
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 a person discards letters for good, with name and reason, and each letter has a state", () =>
    Effect.gen(function*() {
      let isBroken = true
      const billing = yield* group("billing", () => isBroken)
      for (const text of ["one", "two", "three"]) yield* publish(text)
      yield* settle
      isBroken = false
      const states = Effect.gen(function*() {
        const stateOf = yield* DeadLetters.states(letters)
        return (yield* Stream.runCollect(DeadLetters.list(letters))).map((letter) =>
          `${text(letter.delivery)} ${stateOf(letter)}`
        )
      })
      assert.deepStrictEqual(yield* states, ["one open", "two open", "three open"])
      const [one, two] = yield* Stream.runCollect(DeadLetters.list(letters))
      assert.match(DeadLetters.idOf(one!), /^[\w-]{32}$/)
      assert.notStrictEqual(DeadLetters.idOf(one!), DeadLetters.idOf(two!))
      yield* DeadLetters.discard([one!], { by: "ada", reason: "a test" })
      yield* DeadLetters.replay(two!)
      assert.deepStrictEqual(yield* states, ["one discarded", "two replayed", "three open"])
      assert.strictEqual((yield* DeadLetters.replay(one!)).how, "discarded")
      assert.deepStrictEqual(yield* replayAll({ run: "again" }), ["one discarded", "two published", "three published"])
      yield* settle
      assert.deepStrictEqual(texts(billing), ["one", "two", "three", "two", "two", "three"])
      const broker = yield* Broker.Broker
      const record = yield* Stream.runCollect(broker.browse(`${letters}.replayed`))
      const entries = record.map((entry) => JSON.parse(text(entry))).filter(({ discarded }) => discarded !== undefined)
      assert.deepStrictEqual(entries.map(({ by, reason }) => [by, reason]), [["ada", "a test"]])
      assert.throws(
        () => DeadLetters.discard([one!], { by: "", reason: "a test" }),
        RangeError,
        "by must have 1 to 200"
      )
      assert.throws(() => DeadLetters.discard([one!], { by: "ada", reason: " " }), RangeError, "reason must have 1 to")
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 a replay that fails again is a new letter of the same message, which the next run replays", () =>
    Effect.gen(function*() {
      const billing = yield* group("billing", () => true)
      yield* publish("m")
      yield* settle
      assert.deepStrictEqual(yield* replayAll(), ["m published"])
      yield* settle
      const found = yield* Stream.runCollect(DeadLetters.list(letters))
      assert.deepStrictEqual(
        found.map(({ channel, group, handler, passes, position }) => ({ channel, group, handler, passes, position })),
        [1, 2].map((passes) => ({
          channel: "orders",
          group: "billing",
          handler: "billingHandler",
          passes,
          position: 0
        }))
      )
      assert.deepStrictEqual(yield* replayAll(), ["m already", "m published"])
      yield* settle
      assert.deepStrictEqual(texts(billing), ["m", "m", "m"])
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 no header hides a message from a group; what is no replay for the group is not handled", () =>
    Effect.gen(function*() {
      const billing = yield* group("billing")
      const mail = yield* group("mail")
      const forged = {
        "dead-letter-group": "mail",
        "dead-letter-replay-id": "x",
        "dead-letter-replayed": "true",
        "dead-letter-channel": "admin"
      }
      yield* publish("forged", "orders", forged)
      yield* publish("other group", "orders.billing.replay", forged)
      yield* publish("no replay", "orders.billing.replay")
      yield* settle
      assert.deepStrictEqual([texts(billing), texts(mail)], [["forged"], ["forged"]])
      const refused = yield* Stream.runCollect(DeadLetters.list("orders.billing.replay.dead-letters"))
      assert.deepStrictEqual(refused.map(({ delivery }) => text(delivery)), ["other group", "no replay"])
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 a channel that a header names is not believed: the replay channel is the broker's", () =>
    Effect.gen(function*() {
      const billing = yield* group("billing")
      yield* publish("m", "orders.billing.replay", {
        "dead-letter-group": "billing",
        "dead-letter-replay-id": "x",
        "dead-letter-channel": "admin",
        "dead-letter-position": "none"
      })
      yield* settle
      assert.deepStrictEqual(billing.map(({ delivery }) => [delivery.channel, delivery.position]), [["orders", 0]])
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 a subscription by pattern takes the replays of each of its channels", () =>
    Effect.gen(function*() {
      let isBroken = true
      const seen = yield* group("billing", () => isBroken, "orders.{region}")
      yield* publish("eu", "orders.eu")
      yield* publish("us", "orders.us")
      yield* settle
      isBroken = false
      for (const region of ["eu", "us"]) {
        yield* Stream.runDrain(DeadLetters.replayAll(`orders.${region}.dead-letters`))
      }
      yield* settle
      assert.deepStrictEqual(seen.map(({ delivery, text }) => `${text} ${delivery.channel}`), [
        "eu orders.eu",
        "us orders.us",
        "eu orders.eu",
        "us orders.us"
      ])
      const all = Subscription.make(
        Channel.bytes("orders/{+rest}"),
        { group: "all", deadLetters: "letters" },
        () => Effect.void
      )
      assert.throws(() => Replays.make(all), RangeError, "matches its own replay channels")
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 hooks that a broker-wide middleware registers before the handler run once for each replay", () => {
    const told: Array<string> = []
    const tells = Middleware.make()({ name: "Tells", stage: "receive" }, (next) => (message) => {
      if (message.kind === "consumer") message.after((exit) => void told.push(`${message.channel} ${exit._tag}`))
      return next(message)
    })
    return Effect.gen(function*() {
      let isBroken = true
      yield* group("billing", () => isBroken)
      yield* publish("m")
      yield* settle
      isBroken = false
      yield* replayAll()
      yield* settle
      assert.deepStrictEqual(told, ["orders Failure", "orders.billing.replay Success"])
    }).pipe(Effect.provide(Layer.provide(Broker.wrap(tells), memory)), Effect.scoped)
  })

  it.effect("F22 headers that the broker refuses reach the group as they were, and hold up no other letter", () =>
    Effect.gen(function*() {
      let isBroken = true
      const billing = yield* group("billing", () => isBroken)
      yield* publish("odd", "orders", { odd: "yes" })
      yield* publish("other")
      yield* settle
      isBroken = false
      const broker = yield* Broker.Broker
      const { delivery } = billing[0]!
      const encoded = DeadLetters.toOutgoing({ delivery, error: "e", channel: letters, at: 7, form: "encoded" })
      yield* broker.publish(encoded)
      const strict = Broker.Broker.of({
        ...broker,
        publish: (message) =>
          message.fields.some(([name]) => name === "odd")
            ? Effect.fail(
              BrokerError.make({ system: "memory", operation: "publish", reason: "Invalid", message: "no odd headers" })
            )
            : broker.publish(message)
      })
      const all = yield* DeadLetters.replayAll(letters, { filter: { from: 7, to: 8 } }).pipe(
        Stream.runCollect,
        Effect.provideService(Broker.Broker, strict)
      )
      assert.deepStrictEqual(all.map(({ how }) => how), ["published"])
      yield* settle
      assert.deepStrictEqual(billing.map(({ delivery, text }) => `${text} ${delivery.headers["odd"] ?? ""}`), [
        "odd yes",
        "other ",
        "odd yes"
      ])
      assert.notProperty(billing[2]!.delivery.headers, "dead-letter-headers")
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 a letter that lacks a part is skipped, and refused with a sentence where it is asked for alone", () =>
    Effect.gen(function*() {
      yield* publish("", letters, {
        "dead-letter-channel": "orders",
        "dead-letter-group": "billing",
        "dead-letter-partition": "3",
        "dead-letter-position": "17",
        "dead-letter-omitted": "headers,body"
      })
      yield* publish("m", letters, { "dead-letter-channel": "orders" })
      assert.deepStrictEqual(yield* replayAll(), [" incomplete", "m incomplete"])
      const found = yield* Stream.runCollect(DeadLetters.list(letters))
      const errors = yield* Effect.forEach(found, (letter) => Effect.flip(DeadLetters.replay(letter)))
      assert.include(errors[0]?.message, "lacks its headers and body")
      assert.include(errors[0]?.message, "The message was read from orders, partition 3, position 17: publish it again")
      assert.include(errors[1]?.message, "lacks its group")
      assert.deepStrictEqual(yield* replayAll({ reach: "all" }), [" incomplete", "m published"])
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F22 a letter that the broker can never take is skipped with its error, and the next run tries it again", () =>
    Effect.gen(function*() {
      const headers = { "dead-letter-channel": "orders", "dead-letter-group": "billing" }
      yield* Effect.forEach(["a", "big", "c"], (each) => publish(each, letters, headers))
      const broker = yield* Broker.Broker
      const failing = (reason: BrokerError.Reason) =>
        Broker.Broker.of({
          ...broker,
          publish: (message) =>
            message.payload.length < 3 || message.channel.endsWith(".replayed")
              ? broker.publish(message)
              : Effect.fail(BrokerError.make({ system: "memory", operation: "publish", reason, message: reason }))
        })
      const targets: ReadonlyArray<DeadLetters.ReplayOptions<Broker.Broker, never, never>> = [
        { reach: "all" },
        { to: "archive" },
        {}
      ]
      for (const options of targets) {
        const replays = (reason: BrokerError.Reason) =>
          Effect.provideService(replayAll(options), Broker.Broker, failing(reason))
        // an error of the channel or the connection stops the run: the others would fail, too
        assert.strictEqual((yield* Effect.flip(replays("Lost"))).reason, "Lost")
        assert.strictEqual((yield* Effect.flip(replays("Permission"))).reason, "Permission")
        assert.deepStrictEqual(yield* replays("TooLarge"), ["a already", "big refused", "c published"])
        const found = yield* Stream.runCollect(DeadLetters.list(letters))
        const alone = yield* Effect.flip(
          Effect.provideService(DeadLetters.replay(found[1]!, options), Broker.Broker, failing("Invalid"))
        )
        assert.strictEqual(alone.reason, "Invalid")
        assert.deepStrictEqual(yield* replayAll(options), ["a already", "big published", "c already"])
      }
    }).pipe(Effect.provide(memory)))

  it.effect("F22 progress is told as it is made, and an end in the middle leaves the rest for the next run", () =>
    Effect.gen(function*() {
      const all = Array.from({ length: 1000 }, (_, i) => `m-${i}`)
      const headers = { "dead-letter-channel": "orders", "dead-letter-group": "billing" }
      yield* Effect.forEach(all, (each) => publish(each, letters, headers), { discard: true })
      const broker = yield* Broker.Broker
      const published = Effect.map(
        Stream.runCollect(broker.browse("orders.billing.replay")),
        (found) => found.map(text)
      )
      const some = yield* Stream.runCollect(Stream.take(DeadLetters.replayAll(letters), 250))
      assert.strictEqual(some.length, 250)
      const early = (yield* published).length
      assert.isAtLeast(early, 250)
      assert.isAtMost(early, 400)
      yield* replayAll()
      assert.deepStrictEqual(yield* published, all)
    }).pipe(Effect.provide(memory)))
})

/** Ends a process at one of its calls to the broker: before the broker hears of it, or before the answer comes. */
interface Death {
  readonly call: number
  readonly when: "before" | "after"
}

/** The broker as one process sees it; `died` completes when it has ended, and no call of it does anything any more. */
const mortal = (broker: Broker.Broker["Service"], death: Death | undefined, died: Deferred.Deferred<void>) => {
  let calls = 0
  const call = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      const number = calls++
      if (death === undefined || number < death.call) return effect
      const end = Effect.andThen(Deferred.succeed(died, undefined), Effect.never)
      return number === death.call && death.when === "after" ? Effect.andThen(effect, end) : end
    })
  return Broker.Broker.of({
    ...broker,
    publish: (message) => call(broker.publish(message)),
    declare: (declaration) => call(broker.declare(declaration)),
    browse: (channel) => Stream.unwrap(call(Effect.succeed(broker.browse(channel))))
  })
}

describe("a replay that is killed", () => {
  const death: fc.Arbitrary<Death> = fc.record({
    call: fc.nat({ max: 20 }),
    when: fc.constantFrom("before" as const, "after" as const)
  })

  /** Replays, with the deaths in turn and then to the end; what the groups have handled, and what was there. */
  const run = (count: number, deaths: ReadonlyArray<Death>, reach: "group" | "all") =>
    Effect.gen(function*() {
      let isBroken = true
      const billing = yield* group("billing", () => isBroken)
      const mail = yield* group("mail")
      const all = Array.from({ length: count }, (_, i) => `m-${i % 3}`)
      for (const each of all) yield* publish(each)
      yield* settle
      isBroken = false
      billing.length = 0
      mail.length = 0
      const broker = yield* Broker.Broker
      for (const each of [...deaths, undefined]) {
        const died = Deferred.makeUnsafe<void>()
        const process = Effect.provideService(
          replayAll({ reach }),
          Broker.Broker,
          mortal(broker, each, died)
        )
        // nothing of it is interrupted: a process that is killed runs no finalizer
        const ended = Deferred.makeUnsafe<void>()
        yield* Effect.forkDetach(Effect.ensuring(process, Deferred.succeed(ended, undefined)))
        yield* Effect.raceFirst(Deferred.await(died), Deferred.await(ended))
        yield* settle
      }
      return { billing: texts(billing), mail: texts(mail), all }
    }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(Layer.merge(memory, Logger.layer([])), TestClock.layer())))

  it(
    "F22 at any call to the broker, any number of times: the group gets each letter exactly once, and no other gets any",
    () =>
      fc.assert(
        fc.asyncProperty(fc.integer({ min: 1, max: 12 }), fc.array(death, { maxLength: 4 }), (count, deaths) =>
          Effect.runPromise(Effect.map(run(count, deaths, "group"), ({ all, billing, mail }) => {
            assert.deepStrictEqual(billing.toSorted(), all.toSorted())
            assert.deepStrictEqual(mail, [])
          }))),
        { numRuns: 150 }
      ),
    60_000
  )

  it("F22 at each call in turn, before it and after it, to one group and to all", async () => {
    for (const reach of ["group", "all"] as const) {
      for (const when of ["before", "after"] as const) {
        for (let call = 0; call < 12; call++) {
          const { all, billing, mail } = await Effect.runPromise(run(3, [{ call, when }], reach))
          assert.deepStrictEqual(billing.toSorted(), all.toSorted(), `${reach} ${when} ${call}`)
          assert.deepStrictEqual(mail.toSorted(), reach === "all" ? all.toSorted() : [], `${reach} ${when} ${call}`)
        }
      }
    }
  }, 60_000)
})
