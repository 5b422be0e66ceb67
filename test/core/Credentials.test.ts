import { type BrokerError, Credentials } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Data, Effect, Exit, Fiber, Logger } from "effect"
import { TestClock } from "effect/testing"

interface Token extends Credentials.Issued {
  readonly token: string
}

class Vault extends Data.TaggedError("Vault")<{ readonly message: string }> {}

/** Credentials whose source is asked through `ask`, which says how often it was. */
const setUp = (ask: (count: number) => Credentials.Source<Token>) => {
  const asked = { count: 0 }
  const credentials = Credentials.make<Token>({
    system: "kafka",
    product: "Kafka",
    source: Effect.suspend(() => ask(++asked.count)),
    refuse: ({ token }) => /[\r\n]/.test(token) ? "the token has a line break" : undefined,
    secrets: ({ token }) => [token]
  })
  return { asked, credentials }
}

const lasting = (token: string, millis: number) =>
  Effect.map(Clock.currentTimeMillis, (now): Token => ({ token, expiresAt: now + millis }))

const lines = () => {
  const found: Array<string> = []
  return { found, layer: Logger.layer([Logger.make(({ message }) => void found.push(String(message)))]) }
}

const failureOf = (exit: Exit.Exit<unknown, BrokerError.BrokerError>): BrokerError.BrokerError => {
  assert.isTrue(Exit.isFailure(exit))
  return Exit.isFailure(exit)
    ? exit.cause.reasons.flatMap((each) => "error" in each ? [each.error] : [])[0]!
    : undefined!
}

/** Lets other fibers run, for a thousand turns of the event loop at most. */
const turnsUntil = (holds: () => boolean) =>
  Effect.repeat(Effect.promise(() => new Promise((resolve) => setImmediate(resolve))), {
    times: 1000,
    until: holds
  })

describe("Credentials", () => {
  it.effect("X17 connections that ask at the same time share one request, later ones ask anew", () =>
    Effect.gen(function*() {
      const { asked, credentials } = setUp((count) => Effect.delay(lasting(`t${count}`, 60_000), "1 second"))
      const together = yield* Effect.forkChild(
        Effect.forEach([1, 2, 3], () => credentials.get, { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* Fiber.join(together)).map(({ token }) => token), ["t1", "t1", "t1"])
      const later = yield* Effect.forkChild(credentials.get)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(later)).token, "t2")
      assert.strictEqual(asked.count, 2)
    }))

  it.effect("X17 a caller that is interrupted leaves the request to the others", () =>
    Effect.gen(function*() {
      const { credentials } = setUp(() => Effect.delay(lasting("t", 60_000), "1 second"))
      const first = yield* Effect.forkChild(credentials.get)
      const second = yield* Effect.forkChild(credentials.get)
      yield* Effect.yieldNow
      yield* Fiber.interrupt(first)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(second)).token, "t")
    }))

  it.effect("X17 a source that fails keeps the last credentials to their end, and is told", () => {
    const log = lines()
    return Effect.gen(function*() {
      const { credentials } = setUp((count) =>
        count === 1 ? lasting("secret-1", 10_000) : Effect.fail(new Vault({ message: "sealed, was secret-1" }))
      )
      yield* credentials.get
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual((yield* credentials.get).token, "secret-1")
      assert.strictEqual(log.found.length, 1)
      assert.include(log.found[0], "Vault: sealed, was <redacted>")
      assert.strictEqual(credentials.lastError()?.reason, "Credentials")
      yield* TestClock.adjust("1 second")
      const error = failureOf(yield* Effect.exit(credentials.get))
      assert.deepStrictEqual([error.reason, error.failure, error.retriable], ["Credentials", "dependency", true])
    }).pipe(Effect.provide(log.layer))
  })

  const wrong: ReadonlyArray<readonly [string, Credentials.Source<Token>, string]> = [
    ["that ended before", Effect.succeed({ token: "t", expiresAt: -5000 }), "they had ended 5 s before"],
    ["whose end is no time", Effect.succeed({ token: "t", expiresAt: NaN }), "expiresAt is no time"],
    ["whose end is an invalid date", Effect.succeed({ token: "t", expiresAt: new Date("x") }), "expiresAt is no time"],
    ["that the server could never take", Effect.succeed({ token: "a\nb" }), "the token has a line break"],
    [
      "that throw",
      Effect.sync(() => {
        throw new TypeError("no file")
      }),
      "TypeError: no file"
    ],
    ["that interrupt themselves", Effect.interrupt, "interrupt"],
    ["that never come", Effect.never, "nothing came within 5 seconds"]
  ]
  for (const [name, source, sentence] of wrong) {
    it.effect(`X17 credentials ${name} are an error that says so`, () =>
      Effect.gen(function*() {
        const { credentials } = setUp(() => source)
        const asked = yield* Effect.forkChild(Effect.exit(credentials.get))
        yield* TestClock.adjust("5 seconds")
        const error = failureOf(yield* Fiber.join(asked))
        assert.include(error.message, "The credentials for Kafka could not be obtained: ")
        assert.include(error.message.toLowerCase(), sentence.toLowerCase())
        assert.strictEqual(error.failure, "dependency")
      }))
  }

  it.effect("X17 open connections get new credentials at 80 % of their life by one request", () =>
    Effect.gen(function*() {
      const { asked, credentials } = setUp((count) => lasting(`t${count}`, 100_000))
      const given = yield* credentials.get
      const used: Array<string> = []
      const use = (name: string) => ({ token }: Token) => Effect.sync(() => void used.push(`${name} ${token}`))
      const fibers = yield* Effect.forEach(["a", "b"], (name) => Effect.forkChild(credentials.renew(given, use(name))))
      yield* TestClock.adjust(71_000)
      assert.strictEqual(asked.count, 1)
      yield* TestClock.adjust(18_000)
      assert.strictEqual(asked.count, 2)
      assert.deepStrictEqual(used.sort(), ["a t2", "b t2"])
      yield* TestClock.adjust(89_000)
      assert.strictEqual(asked.count, 3)
      yield* Fiber.interruptAll(fibers)
      yield* TestClock.adjust(1_000_000)
      assert.strictEqual(asked.count, 3)
    }))

  it.effect("X17 an open connection asks again after a failure, with growing waits", () => {
    const log = lines()
    return Effect.gen(function*() {
      const { asked, credentials } = setUp((count) =>
        count === 1 || count === 5 ? lasting(`t${count}`, 100_000) : Effect.fail(new Vault({ message: "sealed" }))
      )
      const given = yield* credentials.get
      const used: Array<string> = []
      const fiber = yield* Effect.forkChild(
        credentials.renew(given, ({ token }) => Effect.sync(() => void used.push(token)))
      )
      yield* TestClock.adjust(100_000)
      assert.deepStrictEqual(used, ["t5"])
      assert.strictEqual(asked.count, 5)
      assert.isUndefined(credentials.lastError())
      yield* Fiber.interrupt(fiber)
    }).pipe(Effect.provide(log.layer))
  })

  it.effect("X17 a connection that refuses new credentials is told, and asked again", () => {
    const log = lines()
    return Effect.gen(function*() {
      const { credentials } = setUp((count) => lasting(`t${count}`, 10_000))
      const given = yield* credentials.get
      let refused = 0
      const fiber = yield* Effect.forkChild(
        credentials.renew(given, () => ++refused < 3 ? Effect.fail(new Vault({ message: "closed" })) : Effect.void)
      )
      // asked at 80 % of their life, then again after a second, and after two
      yield* TestClock.adjust(9000)
      // the source runs on a fiber of its own
      yield* turnsUntil(() => refused > 0)
      assert.strictEqual(credentials.lastError()?.reason, "Credentials")
      yield* TestClock.adjust(3000)
      yield* turnsUntil(() => refused === 3)
      assert.strictEqual(refused, 3)
      assert.isUndefined(credentials.lastError())
      assert.isTrue(log.found.some((line) => line.includes("An open connection to Kafka has no new credentials")))
      yield* Fiber.interrupt(fiber)
    }).pipe(Effect.provide(log.layer))
  })

  it.effect("X17 credentials without an end are asked for again after 5 minutes", () =>
    Effect.gen(function*() {
      const { asked, credentials } = setUp((count) => Effect.succeed({ token: `t${count}` }))
      const fiber = yield* Effect.forkChild(credentials.renew(yield* credentials.get, () => Effect.void))
      yield* TestClock.adjust("3 minutes")
      assert.strictEqual(asked.count, 1)
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(asked.count, 2)
      yield* Fiber.interrupt(fiber)
    }))

  it.effect("X17 texts are without the secrets of the last two credentials", () =>
    Effect.gen(function*() {
      const { credentials } = setUp((count) => Effect.succeed({ token: `secret-${count}` }))
      yield* credentials.get
      yield* credentials.get
      assert.strictEqual(credentials.redact("secret-1 secret-2 secret-3"), "<redacted> <redacted> secret-3")
    }))
})
