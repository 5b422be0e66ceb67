/**
 * What the service runs on: a database, and a broker that may come and go.
 */
import { PgClient } from "@effect/sql-pg"
import { Broker, type BrokerError, DeadLetters, Health, MemoryBroker, RateLimit, Subscriptions } from "@millrace/core"
import { HealthRoutes, type Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Kafka } from "@millrace/kafka"
import { Inbox, Outbox, OutboxRelay, SqlHealth, SqliteClient } from "@millrace/sql"
import { type Config, Effect, Layer, Redacted } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { createServer } from "node:http"
import * as Api from "./api.ts"
import type { Settings } from "./config.ts"
import { Cancelled, Placed, Replies } from "./contract.ts"
import * as Jobs from "./jobs.ts"
import * as Orders from "./orders.ts"
import { StoreFailed } from "./store.ts"
import * as Worker from "./worker.ts"

const sqlite = (filename: string) =>
  Layer.catch(SqliteClient.layer({ filename }), (cause) =>
    Layer.effect(
      SqlClient.SqlClient,
      Effect.fail(new StoreFailed({ message: `DATABASE ${filename} does not open: ${cause.message}`, cause }))
    ))

const client = (database: Redacted.Redacted): Layer.Layer<SqlClient.SqlClient, SqlError.SqlError | StoreFailed> =>
  /^postgres(ql)?:/.test(Redacted.value(database))
    ? PgClient.layer({ url: database })
    : sqlite(Redacted.value(database))

/** The database, and what is kept there. One client for all, so that their rows are of one transaction. */
export const stores = ({ database }: Settings) =>
  Layer.mergeAll(Orders.layer, Jobs.layer, Inbox.layer()).pipe(
    Layer.provideMerge(Outbox.layer()),
    Layer.provideMerge(client(database))
  )

/** Ready where the database is; messages that wait for the broker only degrade it, since orders are accepted. */
export const health = Layer.unwrap(Effect.map(Outbox.watch(), ({ lag }) =>
  Health.layer([
    SqlHealth.client(),
    Health.check({
      name: "outbox",
      check: Effect.map(lag, ({ age = 0, pending }) =>
        age > 60_000 ? Health.degraded("messages wait for the broker") : { pending }),
      whenDown: "degraded"
    })
  ])))

type Route = Server.Route<Orders.Orders | RateLimit.Store | Health.Registry>

const routes = (limit: number): ReadonlyArray<Route> => [...Api.routes(limit), ...HealthRoutes.make()]

/** The HTTP server, with the routes of probes (`/livez`, `/readyz` …). It needs the database, and no broker. */
export const http = ({ host, limit, port }: Settings) =>
  Layer.provide(Listener.layer(createServer, routes(limit), { host, port }), RateLimit.layerMemory())

const declared = Layer.effectDiscard(
  Effect.gen(function*() {
    const broker = yield* Broker.Broker
    for (const { name } of [Placed, Cancelled, Replies]) {
      yield* broker.declare({ channel: name })
      yield* broker.declare({ channel: DeadLetters.channelOf(name) })
    }
  })
)

/** A broker in memory forgets with its process, so orders without an end are published again; cancellations are not. */
const remembered = Layer.effectDiscard(
  Effect.gen(function*() {
    const again = yield* (yield* Orders.Orders).again
    if (again > 0) yield* Effect.log(`Orders without an end from before, published again: ${again}`)
  })
)

const brokers: Record<
  Settings["broker"],
  () => Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError>
> = {
  memory: () => MemoryBroker.layer(),
  kafka: () => Kafka.layerConfig()
}

/** The relay of the outbox, the consumers, and the broker that they need. */
export const messaging = ({ broker, worker, workTime }: Settings, on = brokers[broker]()) =>
  Layer.mergeAll(
    Subscriptions.layer(Api.subscriptions),
    worker ? Subscriptions.layer(Worker.subscriptions(workTime)) : Layer.empty,
    OutboxRelay.layer(),
    broker === "memory" ? remembered : Layer.empty
  ).pipe(
    Layer.provide(declared),
    Layer.provide(on)
  )
