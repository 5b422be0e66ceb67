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
 * SIGTERM and Ctrl-C stop it in order: what was accepted is answered, what is worked on is finished, the relay stops. `--help`
 * prints the parts, the arguments and the variables; `--only web` runs the HTTP half alone.
 */
import { Program } from "@millrace/program"
import * as Listener from "@millrace/http/Listener"
import { Console, Context, Effect, Layer, References } from "effect"
import * as Settings from "./config.ts"
import * as Layers from "./layers.ts"

const program = (settings: Settings.Settings) =>
  Program.make({
    name: "web-service",
    parts: {
      web: Program.server(Layer.tap(Layers.http(settings), (services) => {
        const { address, port } = Context.get(services, Listener.Address)
        return Console.log(`Listening at http://${address}:${port}, messages by ${settings.broker}`)
      })),
      // orders are accepted while the broker is down: their messages wait in the outbox
      messages: Program.worker(Layers.messaging(settings), {
        restart: { base: "2 seconds", cap: "2 seconds", times: "unlimited" },
        whenDown: "degraded"
      })
    },
    services: Layers.health.pipe(
      Layer.provideMerge(Layers.stores(settings)),
      Layer.merge(Layer.succeed(References.MinimumLogLevel, settings.logLevel))
    )
  })

Program.run(Effect.map(Settings.load, program), { help: Settings.help })
