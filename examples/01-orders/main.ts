/**
 * Twenty thousand orders, good and bad, through eight middlewares: on embedded parts, or on a real Kafka and PostgreSQL.
 *
 * The pipeline is in `pipeline.ts`, what it runs on in `layers.ts`, and what a run is in `run.ts`.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Console, Effect, Layer, Option, Schema } from "effect"
import { CliConfig, CliError, Command, Flag, GlobalFlag } from "effect/cli"
import { mkdtempSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Layers from "./layers.ts"
import { run } from "./run.ts"
import { bold, count } from "./terminal.ts"

const flags = {
  broker: Flag.Literals("broker", ["memory", "kafka"]).pipe(
    Flag.withDescription("Where the orders travel; memory where it is not given"),
    Flag.withDefault("memory")
  ),
  brokers: Flag.String("brokers").pipe(
    Flag.withDescription("A Kafka that runs already, as host:port; without it one is started for the run"),
    Flag.optional
  ),
  audit: Flag.String("audit").pipe(
    Flag.withDescription("A SQLite file for the audit, or postgres://user:password@host:port/database"),
    Flag.optional
  ),
  orders: Flag.Int("orders").pipe(
    Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 100, maximum: 1_000_000 }))),
    Flag.withDescription("How many orders are published, from 100; 20000 where it is not given"),
    Flag.withDefault(20_000)
  ),
  seed: Flag.Int("seed").pipe(
    Flag.withDescription("What the orders are made of; 1 where it is not given"),
    Flag.withDefault(1)
  )
}

const newFile = () => join(mkdtempSync(join(tmpdir(), "millrace-")), "audit.db")

const start = Command.make("start", flags, ({ broker, orders, seed, ...places }) => {
  const audit = Option.getOrElse(places.audit, newFile)
  const brokers = Option.getOrUndefined(places.brokers)
  return Console.log(bold(`${count(orders)} orders by ${broker}, audited in ${audit.replace(/\/\/.*@/, "//…@")}`))
    .pipe(
      Effect.andThen(run({ orders, seed })),
      Effect.provide(Layers.layer({ audit, broker, brokers })),
      // every error of the parts is a sentence that says what to do
      Effect.mapError((error) =>
        error._tag === "NotReconciled" ? error : new CliError.UserError({ cause: error, userMessage: error.message })
      ),
      Effect.onInterrupt(() => Console.log("\nStopped: what was running is finished, the rest stays with the broker"))
    )
}).pipe(
  Command.withDescription("Sends orders, good and bad, through eight middlewares, and accounts for each of them"),
  Command.withExamples([
    { command: "start --broker kafka", description: "The same pipeline on a real Kafka" },
    { command: "start --audit postgres://me:secret@localhost/shop", description: "The same audit in PostgreSQL" }
  ])
)

Command.run(start, { version: "0.1.0" }).pipe(
  Effect.provide(Layer.merge(NodeServices.layer, CliConfig.layer({ builtIns: [GlobalFlag.Help] }))),
  NodeRuntime.runMain
)
