/**
 * Twenty thousand orders, good and bad, through eight middlewares: on embedded parts, or on a real Kafka and PostgreSQL.
 *
 * The pipeline is in `pipeline.ts`, what it runs on in `layers.ts`, and what a run is in `run.ts`.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Health } from "@millrace/core"
import { Console, Effect, FileSystem, Layer, Option } from "effect"
import { CliConfig, CliError, Command, Flag, GlobalFlag } from "effect/cli"
import { join } from "node:path"
import * as Layers from "./layers.ts"
import { run } from "./run.ts"
import { bold, count } from "./terminal.ts"

const flags = {
  broker: Flag.Literals("broker", ["memory", "kafka"]).pipe(
    Flag.withDescription("Where the orders travel (default: memory)"),
    Flag.withDefault("memory")
  ),
  brokers: Flag.String("brokers").pipe(
    Flag.withDescription(
      "With --broker kafka: one that runs already, as host:port (default: one is started for the run)"
    ),
    Flag.optional
  ),
  audit: Flag.String("audit").pipe(
    Flag.withDescription(
      "A SQLite file to keep the audit in, or postgres://user:password@host:port/database (default: a file for the run)"
    ),
    Flag.optional
  ),
  orders: Flag.Int("orders").pipe(
    Flag.filter((n) => n >= 100 && n <= 1_000_000, (n) => `an integer from 100 to 1000000, and ${n} is none`),
    Flag.withDescription("How many orders are published, from 100 to 1000000 (default: 20000)"),
    Flag.withDefault(20_000)
  ),
  seed: Flag.Int("seed").pipe(
    Flag.withDescription("What the orders are made of: the same seed, the same orders (default: 1)"),
    Flag.withDefault(1)
  )
}

/** A file that is gone with the run. */
const fileOfTheRun = Effect.flatMap(
  FileSystem.FileSystem,
  (files) => files.makeTempDirectoryScoped({ prefix: "millrace-" })
)
  .pipe(Effect.map((folder) => join(folder, "audit.db")))

const refuse = (message: string) => Effect.fail(new CliError.UserError({ cause: message, userMessage: message }))

const start = Command.make(
  "start",
  flags,
  Effect.fnUntraced(function*({ broker, orders, seed, ...places }) {
    const brokers = Option.getOrUndefined(places.brokers)
    if (brokers !== undefined && broker !== "kafka") return yield* refuse("--brokers needs --broker kafka beside it")
    const audit = Option.isSome(places.audit) ? places.audit.value : yield* fileOfTheRun
    const where = Option.isSome(places.audit) ? audit.replace(/\/\/.*@/, "//…@") : "a SQLite file for the run"
    return yield* Console.log(bold(`${count(orders)} orders by ${broker}, audited in ${where}`))
      .pipe(
        Effect.andThen(run({ orders, seed })),
        Effect.provide(Layers.layer({ audit, broker, brokers })),
        // every error of the parts is a sentence that says what to do
        Effect.mapError((error) =>
          error._tag === "NotReconciled" ? error : new CliError.UserError({ cause: error, userMessage: error.message })
        ),
        Effect.onInterrupt(() => Console.log("\nStopped: what was running is finished, the rest stays with the broker"))
      )
  }, Effect.scoped)
).pipe(
  Command.withDescription("Sends orders, good and bad, through eight middlewares, and accounts for each of them"),
  Command.withExamples([
    { command: "start --broker kafka", description: "The same pipeline on a real Kafka" },
    { command: "start --audit postgres://me:secret@localhost/shop", description: "The same audit in PostgreSQL" }
  ])
)

Command.run(start, { version: "0.1.0" }).pipe(
  Effect.provide(Layer.merge(NodeServices.layer, CliConfig.layer({ builtIns: [GlobalFlag.Help] }))),
  // a signal ends a run in order: exit code 0
  NodeRuntime.runMain({ teardown: Health.teardown })
)
