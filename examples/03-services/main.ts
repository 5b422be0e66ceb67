/**
 * Several services in one process, by name, and a producer: run all, or some of them here and the others elsewhere.
 *
 * SIGTERM and Ctrl-C end it in order: the producer first, then every service when what it handles is done.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Broker, DeadLetters, Publisher, Subscriptions } from "@millrace/core"
import { Console, Effect, Layer, Option, Random, Schedule } from "effect"
import { CliConfig, CliError, Command, Flag, GlobalFlag } from "effect/cli"
import * as Brokers from "../02-any-broker/brokers.ts"
import { Approvals, Events, Mails } from "./events.ts"
import { names, services } from "./services.ts"

const flags = {
  only: Flag.Literals("only", [...names, "producer"]).pipe(
    Flag.withDescription("What runs in this process; may be given several times (default: all of them)"),
    Flag.between(0, names.length + 1)
  ),
  broker: Flag.Literals("broker", Brokers.names).pipe(
    Flag.withDescription("Where the messages travel (default: memory, which is this process)"),
    Flag.withDefault("memory")
  ),
  url: Flag.Redacted("url").pipe(
    Flag.withDescription("A broker that runs already (default: one is started)"),
    Flag.optional
  ),
  rate: Flag.Int("rate").pipe(
    Flag.filter((n) => n >= 1 && n <= 10_000, (n) => `an integer from 1 to 10000, and ${n} is none`),
    Flag.withDescription("Orders that are placed in a second, from 1 to 10000 (default: 40)"),
    Flag.withDefault(40)
  )
}

const declared = Effect.gen(function*() {
  const broker = yield* Broker.Broker
  for (const { name } of [Events, Approvals, Mails]) {
    yield* broker.declare({ channel: name })
    yield* broker.declare({ channel: DeadLetters.channelOf(name) })
  }
})

const events = Publisher.make(Events)

/** Places orders, and cancels one in ten. */
const produce = (rate: number) => {
  let id = 0
  return Effect.gen(function*() {
    const customer = `customer ${yield* Random.nextIntBetween(1, 40)}`
    const order = { _tag: "Placed", id: ++id, customer, amount: yield* Random.nextIntBetween(1, 1000) } as const
    yield* events.publish(order)
    if (id % 10 === 0) yield* events.publish({ _tag: "Cancelled", id, customer })
  }).pipe(Effect.repeat(Schedule.spaced(1000 / rate)), Effect.asVoid)
}

/** One line every few seconds: a slow service shows here, by what it has not done. */
const watch = Effect.gen(function*() {
  const subscriptions = yield* Subscriptions.Registry
  const all = yield* subscriptions.list
  const lines = yield* Effect.forEach(all, ({ channel, group, name, pending, settled }) =>
    Effect.map(
      Effect.flatMap(Broker.Broker, (broker) => broker.lag(channel, group)).pipe(
        Effect.map((lags) => `${lags.reduce((sum, { messages }) => sum + messages, 0)} behind`),
        Effect.catch(() => Effect.succeed(`${pending} in hand`))
      ),
      (behind) => `${name}: ${settled} done, ${behind}`
    ))
  yield* Console.log(lines.join("; "))
})

const start = Command.make("services", flags, ({ broker, only, rate, url }) => {
  const here = only.length === 0 ? [...names, "producer"] : only
  const running = names.filter((name) => here.includes(name)).flatMap((name) => services[name].subscriptions)
  return Effect.gen(function*() {
    yield* declared
    // the last that is built is the first that is closed: producing ends before handling does
    yield* Layer.build(Subscriptions.layer(running)).pipe(
      Effect.tap(() => Effect.addFinalizer(() => Console.log("Stopping: what was begun is finished"))),
      Effect.flatMap((context) =>
        Effect.gen(function*() {
          if (here.includes("producer")) yield* Effect.forkScoped(produce(rate))
          yield* Effect.repeat(watch, Schedule.spaced("2 seconds"))
        }).pipe(Effect.provideContext(context))
      )
    )
  }).pipe(
    Effect.scoped,
    Effect.provide(Brokers.layer(broker, Option.getOrUndefined(url))),
    Effect.onInterrupt(() => Console.log("Stopped: what had not begun stays with the broker")),
    // every error of the parts is a sentence that says what to do
    Effect.mapError((error) => new CliError.UserError({ cause: error, userMessage: error.message }))
  )
}).pipe(
  Command.withDescription("Runs several services by name in one process, and a producer that keeps them busy"),
  Command.withExamples([
    {
      command: "services --only mailer --broker redis --url redis://localhost",
      description: "One more mailer, elsewhere"
    }
  ])
)

Command.run(start, { version: "0.1.0" }).pipe(
  Effect.provide(Layer.merge(NodeServices.layer, CliConfig.layer({ builtIns: [GlobalFlag.Help] }))),
  (program) =>
    NodeRuntime.runMain(program, {
      // a service that was told to end, and did, has not failed
      teardown: (exit, onExit) =>
        onExit(exit._tag === "Success" || exit.cause.reasons.every(({ _tag }) => _tag === "Interrupt") ? 0 : 1)
    })
)
