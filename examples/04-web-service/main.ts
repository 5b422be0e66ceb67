/**
 * A web service that talks through a broker: `POST /orders` is answered once the order and its message are in the database,
 * a worker consumes it and replies with each step, and `GET /orders/{id}` shows the states.
 *
 *     node examples/04-web-service/main.ts          # http://127.0.0.1:3000, a broker in memory and SQLite
 *
 *     curl -i localhost:3000/orders -H 'content-type: application/json' \
 *       -d '{"customer":"ada","lines":[{"sku":"lamp","quantity":1},{"sku":"gone-desk","quantity":2}]}'
 *     curl localhost:3000/orders/ID                 # received, processing, partial; a "busy-…" is retried
 *     curl -X DELETE localhost:3000/orders/ID       # cancelled, where it has not ended
 *
 * On servers of your own; stop Kafka and orders are still accepted, start it again and they arrive:
 *
 *     BROKER=kafka KAFKA_BROKERS=localhost:9092 DATABASE=postgres://user:password@localhost/shop PORT=8080 node …/main.ts
 *
 * SIGTERM and Ctrl-C end it in order: what was accepted is answered, what is worked on is finished, the relay stops. `--help`
 * prints the variables.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Listener from "@millrace/http/Listener"
import { Cause, Console, Context, Effect, Exit, Fiber, Layer, References } from "effect"
import * as Settings from "./config.ts"
import * as Layers from "./layers.ts"

const serve = (settings: Settings.Settings) =>
  Effect.gen(function*() {
    const stores = yield* Layer.build(Layers.stores(settings))
    // what begins first ends last: the server stops before the messages do
    const messaging = yield* Effect.forkScoped(Effect.provideContext(Layers.messaging(settings), stores))
    const server = yield* Effect.provideContext(Layer.build(Layers.http(settings)), stores)
    const { address, port } = Context.get(server, Listener.Address)
    yield* Effect.addFinalizer(() => Console.log("Stopping: what was accepted is answered, what was begun is finished"))
    yield* Console.log(`Listening at http://${address}:${port}, messages by ${settings.broker}`)
    return yield* Fiber.join(messaging)
  }).pipe(
    Effect.scoped,
    Effect.provideService(References.MinimumLogLevel, settings.logLevel),
    Effect.onInterrupt(() => Console.log("Stopped"))
  )

const program = process.argv.length === 2
  ? Effect.flatMap(Settings.load, serve)
  : process.argv.includes("--help")
  ? Console.log(Settings.help)
  : Effect.fail(new Settings.WrongSettings({ message: "There are no arguments, only variables: --help prints them." }))

const isWrong = (error: unknown): boolean =>
  typeof error === "object" && error !== null && "_tag" in error &&
  (error._tag === "WrongSettings" || error._tag === "ConfigError")

NodeRuntime.runMain(Effect.tapError(program, (error) => Console.error(error.message)), {
  disableErrorReporting: true,
  teardown: (exit, onExit) => {
    if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return onExit(0)
    onExit(exit.cause.reasons.some((reason) => reason._tag === "Fail" && isWrong(reason.error)) ? Settings.exitCode : 1)
  }
})
