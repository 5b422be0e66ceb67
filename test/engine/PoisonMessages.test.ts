import { Broker, Channel, DeadLetters, Lanes, Retries, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Effect, Exit, Stream } from "effect"
import { TestClock } from "effect/testing"
import { altered, isLetter, lines, message, refusal } from "./altered.ts"

class Refused extends Data.TaggedError("Refused")<{ readonly cause?: unknown }> {
  readonly failure = "permanent" as const
  override get message(): string {
    throw new Error("the getter throws")
  }
}

const trap = (): never => {
  throw new Error("the trap throws")
}

/** Errors that throw, lie or lack what errors have. */
const odd: Record<string, () => unknown> = {
  "a message getter that throws": () => new Refused({}),
  "a message that is an object": () => Object.assign(new Error("x"), { failure: "permanent", message: { code: 7 } }),
  "a name that is undefined": () => Object.assign(new Error("x"), { name: undefined, failure: "permanent" }),
  "a name that is a number": () => Object.assign(new Error("x"), { name: 42, failure: "permanent" }),
  "a proxy whose traps throw": () => new Proxy({}, { has: trap, get: trap, getPrototypeOf: trap }),
  "the tag constructor": () => Object.assign(new Error("x"), { _tag: "constructor" }),
  "the tag __proto__": () => Object.assign(new Error("x"), { _tag: "__proto__" }),
  null: () => null,
  "a bigint": () => 1n,
  "a message with line breaks": () => Object.assign(new Error("a\r\nb\u0000c\ud800"), { failure: "permanent" })
}

const Orders = Channel.bytes("c")

describe("poison messages", () => {
  for (const [name, make] of Object.entries(odd)) {
    for (const when of ["at once", "later"] as const) {
      it.effect(`F13 an error with ${name}, ${when}, ends as a dead letter, and the lane goes on`, () =>
        Effect.gen(function*() {
          const { broker, memory } = yield* altered({ partitions: 1 }, {})
          let handled = 0
          const subscription = Subscription.make(Orders, { group: "g", name: "s" }, (delivery): Effect.Effect<void> => {
            if (delivery.key !== "bad") return Effect.sync(() => void handled++)
            // the type of the error is what a caller in JavaScript may pass
            const failed = Exit.failCause(Cause.die(make())) as Exit.Exit<never>
            return when === "at once" ? failed : Effect.andThen(Effect.sleep(5), failed)
          })
          const running = yield* broker.consume(subscription.consumer)
          yield* broker.publishAll([message("bad"), message("a"), message("b")])
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual([handled, memory.ends("c.dead-letters"), memory.positions("c", "g")], [2, [1], [3]])
          assert.strictEqual((yield* running.health).deadLetters, 1)
        }).pipe(Effect.scoped))
    }
  }

  it.effect("F13 a naming rule that throws gives the default dead letter channel", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* altered({ partitions: 1 }, {})
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", deadLetters: trap },
        () => Effect.die("x")
      )
      yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("bad"))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([memory.ends("c.dead-letters"), memory.positions("c", "g")], [[1], [1]])
    }).pipe(Effect.scoped))

  it.effect("F13 own headers of a dead letter are one printable line", () =>
    Effect.gen(function*() {
      const { broker } = yield* altered({ partitions: 1 }, {})
      const error = Object.assign(new Error("a\r\nb\u0000c\u2028d\ud800e"), { name: "Odd\nName" })
      const subscription = Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.die(error))
      yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("bad"))
      yield* TestClock.adjust("1 second")
      const letters = yield* Stream.runCollect(broker.browse("c.dead-letters"))
      const { headers } = letters[0]!
      assert.strictEqual(headers[DeadLetters.names.errorType], "Odd Name")
      assert.strictEqual(headers[DeadLetters.names.errorMessage], "a b c d e")
    }).pipe(Effect.scoped))
})

describe("parts of a consumer that throw", () => {
  for (const when of ["at once", "later"] as const) {
    const failed = when === "at once" ? Effect.die("x") : Effect.andThen(Effect.sleep(5), Effect.die("x"))
    const { consumer } = Subscription.make(
      Orders,
      { group: "g", name: "s", lanes: Lanes.key(2) },
      ({ key }) => key === "bad" ? failed : Effect.void
    )

    it.effect(`F13 settle, ${when}: the message is a dead letter, and its source goes on`, () =>
      Effect.gen(function*() {
        const { broker, memory } = yield* altered({ partitions: 1 }, {})
        const settle: typeof consumer.settle = (exit) => exit._tag === "Failure" ? trap() : consumer.settle(exit)
        const running = yield* broker.consume({ ...consumer, settle })
        yield* broker.publishAll([message("bad"), message("bad"), message("good")])
        yield* TestClock.adjust("1 second")
        const { deadLetters, restarts } = yield* running.health
        assert.deepStrictEqual([deadLetters, restarts, memory.positions("c", "g")], [2, 0, [3]])
      }).pipe(Effect.scoped))

    it.effect(`F13 X15 deadLetter, ${when}: the message waits and is shown, and all others go on`, () =>
      Effect.gen(function*() {
        let isThrowing = true
        const { broker, memory } = yield* altered({ partitions: 1 }, {})
        const deadLetter: typeof consumer.deadLetter = (...all) => isThrowing ? trap() : consumer.deadLetter(...all)
        const running = yield* broker.consume({ ...consumer, deadLetter })
        yield* broker.publishAll([message("bad"), message("bad"), message("good")])
        yield* TestClock.adjust("10 seconds")
        const { lanes, lastError, restarts, settled } = yield* running.health
        assert.deepStrictEqual(lanes.map(({ behind, state }) => [state, behind]), [["dead letter", 1]])
        assert.deepStrictEqual([settled, restarts, String(lastError)], [1, 0, "Error: the trap throws"])
        isThrowing = false
        yield* TestClock.adjust("2 minutes")
        assert.deepStrictEqual([memory.ends("c.dead-letters"), memory.positions("c", "g")], [[2], [3]])
      }).pipe(Effect.scoped))
  }
})

interface Letter {
  readonly body: number
  readonly headers: ReadonlyArray<string>
}

/** Publishes a poison message to a broker that takes dead letters only if they fit, and shows what became of it. */
const lettersOf = (
  refuses: (letter: Letter) => boolean,
  options: { readonly refusedDeadLetter?: "wait" | "drop" } = {}
) =>
  Effect.gen(function*() {
    let isPicky = true
    let tried = 0
    const { broker, memory } = yield* altered({ partitions: 1 }, {
      driver: (driver) => ({
        ...driver,
        publish: (batch) => {
          if (!isLetter(batch)) return driver.publish(batch)
          tried++
          const letter = { body: batch[0]!.payload.length, headers: batch[0]!.fields.map(([name]) => name) }
          return isPicky && refuses(letter) ? Effect.fail(refusal("TooLarge")) : driver.publish(batch)
        }
      })
    })
    const subscription = Subscription.make(
      Orders,
      { group: "g", name: "s", ...options },
      ({ key }) => key === "bad" ? Effect.die("x") : Effect.void
    )
    const running = yield* broker.consume(subscription.consumer)
    yield* broker.publishAll([message("bad", { trace: "t", long: "l".repeat(100) }, 50), message("next")])
    yield* TestClock.adjust("5 seconds")
    const found = yield* Stream.runCollect(DeadLetters.list("c.dead-letters")).pipe(
      Effect.provideService(Broker.Broker, broker)
    )
    const shown = { letter: found[0], positions: memory.positions("c", "g"), tried, health: yield* running.health }
    isPicky = false
    yield* TestClock.adjust("2 minutes")
    assert.deepStrictEqual(memory.positions("c", "g"), [2])
    return shown
  }).pipe(Effect.scoped)

describe("dead letters that the broker refuses for good", () => {
  it.effect("F22 the original headers are encoded where the broker refuses one of them", () =>
    Effect.gen(function*() {
      const { letter, positions } = yield* lettersOf(({ headers }) => headers.includes("trace"))
      assert.deepStrictEqual(letter!.omitted, [])
      assert.strictEqual(letter!.delivery.raw.length, 50)
      assert.isDefined(letter!.delivery.headers[DeadLetters.names.headers])
      assert.deepStrictEqual(positions, [2])
    }))

  it.effect("F22 headers are left out where the broker refuses all of them, and the body stays whole", () =>
    Effect.gen(function*() {
      const { letter, positions } = yield* lettersOf(({ headers }) =>
        headers.includes("trace") || headers.includes(DeadLetters.names.headers)
      )
      assert.deepStrictEqual(letter!.omitted, ["headers"])
      assert.deepStrictEqual([letter!.delivery.raw.length, letter!.errorMessage, letter!.channel], [50, "", "c"])
      assert.deepStrictEqual(positions, [2])
    }))

  it.effect("F22 a digest stands in place of a body that the broker refuses", () =>
    Effect.gen(function*() {
      const { letter, positions } = yield* lettersOf(({ body }) => body > 0)
      assert.deepStrictEqual(letter!.omitted, ["headers", "body"])
      const { headers } = letter!.delivery
      const digest = yield* Effect.promise(() => crypto.subtle.digest("SHA-256", new Uint8Array(50)))
      assert.strictEqual(
        headers[DeadLetters.names.digest],
        `sha-256=:${Buffer.from(digest).toString("base64")}:`
      )
      assert.strictEqual(headers[DeadLetters.names.length], "50")
      assert.deepStrictEqual(positions, [2])
    }))

  for (const when of ["at once", "later"] as const) {
    it.effect(`F22 a dead letter that the broker takes in a smaller form, ${when}, is told in one line`, () =>
      Effect.gen(function*() {
        const warnings = lines("Warn")
        const answers = when === "at once" ? Effect.void : Effect.sleep(10)
        const { broker } = yield* altered({ partitions: 1 }, {
          driver: (driver) => ({
            ...driver,
            publish: (batch) =>
              isLetter(batch) && batch[0]!.payload.length > 0
                ? Effect.fail(refusal("TooLarge"))
                : Effect.flatMapEager(driver.publish(batch), () => isLetter(batch) ? answers : Effect.void)
          })
        })
        yield* Effect.provide(
          broker.consume(Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.die("x")).consumer),
          warnings.layer
        )
        yield* broker.publish(message("bad"))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(warnings.found, [
          "A dead letter of s was written in the form \"digest\", since the broker refuses the whole one",
          "A message of c became a dead letter of s"
        ])
      }).pipe(Effect.scoped))
  }

  it.effect("F22 X15 a message whose dead letter is refused in every form is parked, and health says so", () =>
    Effect.gen(function*() {
      const { health, positions, tried } = yield* lettersOf(() => true)
      assert.deepStrictEqual(positions, [0])
      assert.strictEqual(tried, 4)
      assert.deepStrictEqual(health.lanes.map(({ key, state }) => [key, state]), [["bad", "parked"]])
      assert.strictEqual((health.lastError as { reason: string }).reason, "TooLarge")
    }))

  it.effect("F22 a message whose dead letter is refused in every form is dropped where the subscription says so", () =>
    Effect.gen(function*() {
      const { health, positions } = yield* lettersOf(() => true, { refusedDeadLetter: "drop" })
      assert.deepStrictEqual([positions, health.dropped, health.deadLetters], [[2], 1, 0])
    }))

  it.effect("F22 a broker that is down is asked again for the whole dead letter, however long it takes", () =>
    Effect.gen(function*() {
      let isDown = true
      const { broker, memory } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          publish: (batch) => isLetter(batch) && isDown ? Effect.fail(refusal("Unreachable")) : driver.publish(batch)
        })
      })
      yield* broker.consume(
        Subscription.make(Orders, { group: "g", name: "s", refusedDeadLetter: "drop" }, () => Effect.die("x")).consumer
      )
      yield* broker.publish(message("bad", { trace: "t" }, 50))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(memory.positions("c", "g"), [0])
      isDown = false
      yield* TestClock.adjust("2 minutes")
      const [letter] = yield* Stream.runCollect(broker.browse("c.dead-letters"))
      assert.deepStrictEqual([letter!.raw.length, letter!.headers["trace"]], [50, "t"])
    }).pipe(Effect.scoped))

  it.effect("F22 a delayed retry that the broker refuses for good becomes a dead letter", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          publish: (batch) =>
            batch[0]!.channel.includes(".retry-") ? Effect.fail(refusal("TooLarge")) : driver.publish(batch)
        })
      })
      const transient = { failure: "transient" as const, _tag: "Busy" as const }
      yield* broker.consume(
        Subscription.make(
          Orders,
          { group: "g", name: "s", retries: Retries.delayed(["1 second"]), lanes: Lanes.key(2) },
          ({ key }) => key === "bad" ? Effect.fail(transient) : Effect.void
        ).consumer
      )
      yield* broker.publishAll([message("bad"), message("bad"), message("good")])
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual([memory.ends("c.dead-letters"), memory.positions("c", "g")], [[2], [3]])
      const [letter] = yield* Stream.runCollect(broker.browse("c.dead-letters"))
      assert.strictEqual(letter!.headers[DeadLetters.names.errorType], "Busy")
    }).pipe(Effect.scoped))
})

describe("a channel that refuses for good, whatever the message", () => {
  for (const [channel, kind] of [[".dead-letters", "dead letter"], [".retry-", "delayed retry"]] as const) {
    it.effect(`F22 keeps a message that leaves as its ${kind}, also where the subscription drops refused ones`, () =>
      Effect.gen(function*() {
        let isMissing = true
        const { broker, memory } = yield* altered({ partitions: 1 }, {
          driver: (driver) => ({
            ...driver,
            publish: (batch) =>
              isMissing && batch[0]!.channel.includes(channel)
                ? Effect.fail(refusal("Credentials"))
                : driver.publish(batch)
          })
        })
        const transient = { failure: "transient" as const, _tag: "Busy" as const }
        const options = { group: "g", name: "s", refusedDeadLetter: "drop", lanes: Lanes.key(2) } as const
        const retries = kind === "dead letter" ? Retries.held : Retries.delayed(["1 second"])
        const running = yield* broker.consume(
          Subscription.make(
            Orders,
            { ...options, retries },
            ({ attempt }) =>
              attempt > 1 ? Effect.void : kind === "dead letter" ? Effect.die("x") : Effect.fail(transient)
          ).consumer
        )
        yield* broker.publish(message("a"))
        yield* TestClock.adjust("1 hour")
        const { dropped, lanes } = yield* running.health
        assert.deepStrictEqual([dropped, lanes.map(({ state }) => state)], [0, [kind]])
        isMissing = false
        yield* TestClock.adjust("5 minutes")
        assert.deepStrictEqual(memory.positions("c", "g"), [1])
        assert.deepStrictEqual(memory.ends("c.dead-letters"), [kind === "dead letter" ? 1 : 0])
      }).pipe(Effect.scoped))
  }
})
