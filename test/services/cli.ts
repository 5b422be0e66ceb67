import { NodeRuntime } from "@effect/platform-node"
import { Kafka, Postgres } from "@millrace/testing/servers"
import { Console, Effect, Redacted } from "effect"

const servers = {
  kafka: Effect.map(Kafka.own(), (kafka) => kafka.address),
  postgres: Effect.map(Postgres.own(), (postgres) => Redacted.value(postgres.url))
}

const usage = `Runs a server in the foreground until Ctrl-C, as the tests run it, and prints its address.

  pnpm services ${Object.keys(servers).join("|")}`

const program = Effect.gen(function*() {
  const name = process.argv[2] ?? "--help"
  if (name === "--help" || name === "-h") return yield* Console.log(usage)
  if (!(name in servers)) {
    yield* Console.error(`There is no server ${name}.\n\n${usage}`)
    process.exitCode = 1
    return
  }
  // the line above made it one of the names
  yield* Console.log(yield* servers[name as keyof typeof servers])
  return yield* Effect.never
})

program.pipe(
  Effect.scoped,
  Effect.catch((error) =>
    Effect.andThen(
      Console.error(error.message),
      Effect.sync(() => {
        process.exitCode = 1
      })
    )
  ),
  NodeRuntime.runMain
)
