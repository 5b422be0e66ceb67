/**
 * What the service runs on: a database, and a broker that may come and go.
 */
import { PgClient } from "@effect/sql-pg"
import { Broker, type BrokerError, DeadLetters, Failure, MemoryBroker, RateLimit, Subscriptions } from "@millrace/core"
import * as Listener from "@millrace/http/Listener"
import { Kafka } from "@millrace/kafka"
import { Inbox, Outbox, OutboxRelay, SqliteClient } from "@millrace/sql"
import { type Config, Effect, Layer, Redacted, Schedule } from "effect"
import { createServer } from "node:http"
import * as Api from "./api.ts"
import type { Settings } from "./config.ts"
import { Cancelled, Placed, Replies } from "./contract.ts"
import * as Jobs from "./jobs.ts"
import * as Orders from "./orders.ts"
import * as Worker from "./worker.ts"

const client = (database: Redacted.Redacted) =>
  /^postgres(ql)?:/.test(Redacted.value(database))
    ? PgClient.layer({ url: database })
    : SqliteClient.layer({ filename: Redacted.value(database) })

/** The database, and what is kept there. One client for all, so that their rows are of one transaction. */
export const stores = ({ database }: Settings) =>
  Layer.mergeAll(Orders.layer, Jobs.layer, Inbox.layer()).pipe(
    Layer.provideMerge(Outbox.layer()),
    Layer.provideMerge(client(database))
  )

/** The HTTP server. It needs the database, and no broker. */
export const http = ({ host, limit, port }: Settings) =>
  Layer.provide(Listener.layer(createServer, Api.routes(limit), { host, port }), RateLimit.layerMemory())

const declared = Layer.effectDiscard(
  Effect.gen(function*() {
    const broker = yield* Broker.Broker
    for (const { name } of [Placed, Cancelled, Replies]) {
      yield* broker.declare({ channel: name })
      yield* broker.declare({ channel: DeadLetters.channelOf(name) })
    }
  })
)

/** A broker in memory forgets with its process, so what has no end yet is published again. */
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

/** The relay of the outbox, and whoever consumes; where the broker cannot be reached it is tried again, without end. */
export const messaging = ({ broker, worker, workTime }: Settings, on = brokers[broker]()) =>
  Layer.mergeAll(
    Subscriptions.layer(Api.subscriptions),
    worker ? Subscriptions.layer(Worker.subscriptions(workTime)) : Layer.empty,
    OutboxRelay.layer(),
    broker === "memory" ? remembered : Layer.empty
  ).pipe(
    Layer.provide(declared),
    Layer.provide(on),
    Layer.launch,
    Effect.tapError((error) => Effect.logWarning(`Messages wait: ${error.message}`)),
    Effect.retry({
      while: (error) => Failure.isClassified(error) && !Failure.lasting.has(error.failure),
      schedule: Schedule.spaced("2 seconds")
    })
  )
