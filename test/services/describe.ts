import { Kafka, Postgres, ServerFailed, ServerUnavailable } from "@millrace/testing/servers"
import { Cause, Effect, Exit, Redacted, Scope } from "effect"
import { afterAll, beforeAll, beforeEach, describe, inject } from "vitest"
import type { Answer, SharedServer } from "./setup.ts"

const services = (): string => {
  const address = inject("services")
  if (address === undefined) {
    throw new Error(
      "Tests on real servers belong to vitest's project \"integration\": name the file *.integration.test.ts"
    )
  }
  return address
}

const tell = (missing: string) =>
  Effect.promise(() => fetch(`${services()}/missing`, { method: "POST", body: missing }))

// The first start on a machine downloads.
const startTimeout = 300_000

/**
 * A suite on a server that `make` starts before its first test and whose scope closes after its last. The rule for a server that cannot be
 * had is here alone: with `CI=true` each test fails and says how to get it; elsewhere each is counted as skipped, and the run says it once.
 */
export const describeServer = <S>(
  title: string,
  make: Effect.Effect<S, ServerUnavailable | ServerFailed, Scope.Scope>,
  body: (server: () => S) => void
): void => {
  describe(title, () => {
    const scope = Scope.makeUnsafe()
    let started: Exit.Exit<S, ServerUnavailable | ServerFailed> | undefined

    const have = (): S => {
      if (started === undefined) {
        throw new Error(`The server of "${title}" is there in tests and hooks, not while they are collected`)
      }
      if (Exit.isSuccess(started)) return started.value
      throw Cause.squash(started.cause)
    }

    beforeAll(async () => {
      started = await Effect.runPromiseExit(Scope.provide(make, scope))
    }, startTimeout)

    beforeEach(async (context) => {
      if (started !== undefined && Exit.isFailure(started) && process.env["CI"] !== "true") {
        const error = Cause.squash(started.cause)
        if (error instanceof ServerUnavailable) {
          await Effect.runPromise(tell(error.message))
          context.skip(error.message)
        }
      }
      have()
    })

    afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)), startTimeout)

    body(have)
  })
}

const shared = (name: SharedServer): Effect.Effect<string, ServerUnavailable | ServerFailed> =>
  Effect.gen(function*() {
    const answer = yield* Effect.promise(async () => {
      const response = await fetch(`${services()}/${name}`)
      // our own setup wrote it
      return await response.json() as Answer
    })
    switch (answer._tag) {
      case "Ready":
        return answer.address
      case "Unavailable":
        return yield* new ServerUnavailable(answer)
      case "Failed":
        return yield* new ServerFailed({ server: name, message: answer.message, logs: "" })
    }
  })

const whose =
  "all files of this test run share it; a test that stops its server starts its own, with describeServer and own()."

/** A suite on the Kafka that all files of a run share: take topics and groups of your own. */
export const describeKafka = (title: string, body: (kafka: () => Kafka.KafkaServer) => void): void =>
  describeServer(title, Effect.flatMap(shared("kafka"), (brokers) => Kafka.existing(brokers, whose)), body)

/** A suite on the PostgreSQL that all files of a run share: take schemas of your own. */
export const describePostgres = (title: string, body: (postgres: () => Postgres.PostgresServer) => void): void =>
  describeServer(title, Effect.flatMap(shared("postgres"), (url) => Postgres.existing(Redacted.make(url), whose)), body)
