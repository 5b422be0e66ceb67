/**
 * One program on every broker: `--broker` changes one Layer, and nothing else.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Health } from "@millrace/core"
import { Effect, Layer, Option } from "effect"
import { CliConfig, CliError, Command, Flag, GlobalFlag } from "effect/cli"
import * as Brokers from "./brokers.ts"
import { program } from "./program.ts"

const flags = {
  broker: Flag.Literals("broker", Brokers.names).pipe(
    Flag.withDescription("Where the orders travel (default: memory)"),
    Flag.withDefault("memory")
  ),
  url: Flag.Redacted("url").pipe(
    Flag.withDescription("A broker that runs already, e.g. amqp://guest:guest@localhost (default: one is started)"),
    Flag.optional
  ),
  orders: Flag.Int("orders").pipe(
    Flag.filter((n) => n >= 1 && n <= 100_000, (n) => `an integer from 1 to 100000, and ${n} is none`),
    Flag.withDescription("How many orders are published, from 1 to 100000 (default: 1000)"),
    Flag.withDefault(1000)
  )
}

const start = Command.make(
  "any-broker",
  flags,
  ({ broker, orders, url }) =>
    program(orders).pipe(
      Effect.scoped,
      Effect.provide(Brokers.layer(broker, Option.getOrUndefined(url))),
      // every error of the parts is a sentence that says what to do
      Effect.mapError((error) => new CliError.UserError({ cause: error, userMessage: error.message }))
    )
).pipe(
  Command.withDescription("Publishes orders, handles, retries and dead-letters them, on the broker of your choice"),
  Command.withExamples([
    { command: "any-broker --broker rabbitmq", description: "On a RabbitMQ that is started for the run" },
    { command: "any-broker --broker redis --url redis://localhost", description: "On a Redis that runs already" }
  ])
)

Command.run(start, { version: "0.1.0" }).pipe(
  Effect.provide(Layer.merge(NodeServices.layer, CliConfig.layer({ builtIns: [GlobalFlag.Help] }))),
  // a signal ends a run in order: exit code 0
  NodeRuntime.runMain({ teardown: Health.teardown })
)
