/**
 * A shop in a storm of failures, and everything to run it: a dashboard, endpoints for Prometheus, and alerts to a receiver.
 *
 *     node examples/10-operations/main.ts             # then open http://127.0.0.1:3000/monitor
 *     node examples/10-operations/main.ts --seed 7 --seconds 60
 *
 * It prints the token of the page. SIGTERM and Ctrl-C end it in order.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import {
  Audit,
  Auth,
  Broker,
  ConsumerLag,
  DeadLetters,
  Health,
  Log,
  MemoryBroker,
  Replays,
  Subscriptions
} from "@millrace/core"
import { Dashboard, MonitorRoutes } from "@millrace/dashboard"
import { HealthRoutes } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { AlertChannel, Monitor, Preset } from "@millrace/monitor"
import { Hmac } from "@millrace/security"
import { Console, Context, Effect, Layer, Option, Random, Redacted, Ref } from "effect"
import { Command, Flag } from "effect/cli"
import { FetchHttpClient } from "effect/http"
import { createServer } from "node:http"
import * as Receiver from "./receiver.ts"
import * as Shop from "./shop.ts"

const integer = (name: string, least: number, most: number, description: string, otherwise: number) =>
  Flag.Int(name).pipe(
    Flag.filter((n) => n >= least && n <= most, (n) => `an integer from ${least} to ${most}, and ${n} is none`),
    Flag.withDescription(`${description} (default: ${otherwise})`),
    Flag.withDefault(otherwise)
  )

const flags = {
  port: integer("port", 0, 65_535, "The port of the page; 0 takes any free one", 3000),
  rate: integer("rate", 1, 1000, "Orders a second", 20),
  seed: integer("seed", 0, 1_000_000, "The storm: the same seed brings the same troubles", 1),
  phase: integer("phase", 1, 3600, "Seconds that a trouble lasts, and the calm before it", 20),
  seconds: Flag.Int("seconds").pipe(Flag.withDescription("Ends after so long (default: never)"), Flag.optional)
}

const readers = Auth.middleware({ scopes: ["monitor:read"] })
const routes = [
  ...HealthRoutes.make(),
  ...MonitorRoutes.make({ through: readers }),
  ...Dashboard.make({ title: "Shop", through: readers, actions: Auth.middleware({ scopes: ["monitor:write"] }) })
]

const start = Command.make("operations", flags, ({ phase, port, rate, seconds, seed }) =>
  Effect.gen(function*() {
    const keys: Hmac.Keys = [{ name: "shop", secret: yield* Hmac.generate }]
    const token = Redacted.value(yield* Hmac.generate).replace("whsec_", "")
    const storm: Shop.Storm = { trouble: yield* Ref.make<Shop.Trouble>("calm"), share: 0.3 }
    const subscriptions = Shop.subscriptions(storm)

    const receiver = yield* Layer.build(
      Listener.layer(createServer, [Receiver.route(keys)], { port: 0, host: "127.0.0.1" })
    )
    const alerts = AlertChannel.webhook({
      url: Redacted.make(`http://127.0.0.1:${Context.get(receiver, Listener.Address).port}/alerts`),
      keys,
      private: "allow"
    })
    const monitor = Monitor.layer(Preset.merge(Preset.production, { slow: "1 second" }), {
      send: [alerts],
      every: "5 seconds",
      groupWait: "5 seconds"
    }).pipe(Layer.provide([Monitor.layerMemory, FetchHttpClient.layer]))
    const verifier = Auth.layerMemory({ [token]: { subject: "operator", scopes: ["monitor:read", "monitor:write"] } })

    const program = Health.layerLifetime().pipe(
      Layer.provideMerge(Listener.layer(createServer, routes, { port, host: "127.0.0.1" })),
      Layer.provide(Layer.mergeAll(ConsumerLag.layer({ every: "1 second" }), ...subscriptions.map(Replays.layer))),
      Layer.provide(Health.layer([Health.broker(), Health.subscriptions()])),
      Layer.provide(Subscriptions.layer(subscriptions)),
      Layer.provideMerge(Layer.mergeAll(MemoryBroker.layer(), Audit.layerMemory(), monitor, verifier))
    )
    yield* Effect.gen(function*() {
      const broker = yield* Broker.Broker
      for (const { name } of [Shop.Orders, Shop.Parcels]) {
        yield* broker.declare({ channel: DeadLetters.channelOf(name) })
      }
      const { address, port } = yield* Listener.Address
      yield* Console.log(`The dashboard is at http://${address}:${port}/monitor\nIts token: ${token}`)
      yield* Effect.forkScoped(Shop.place(rate))
      yield* Effect.forkScoped(Shop.blow(storm, phase * 1000, (trouble) => Console.log(`The storm: ${trouble}`)))
      yield* Option.match(seconds, { onNone: () => Effect.never, onSome: (n) => Effect.sleep(n * 1000) })
    }).pipe(Effect.provide(program))
    yield* Console.log("Stopped")
  }).pipe(Effect.scoped, Random.withSeed(String(seed)), Effect.provide(Log.layerConfig({ level: "Error" }))))

NodeRuntime.runMain(
  Effect.provide(Command.run(start, { version: "0.1.0" }), NodeServices.layer)
)
