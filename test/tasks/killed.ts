/** A worker of tasks in a process of its own, for tests that kill it: `killed.ts STORE BROKER QUEUE NAME`. */
import { type Broker, Lanes, Subscription, type TaskStore } from "@millrace/core"
import { RabbitMq } from "@millrace/rabbitmq"
import { RedisStreams, TaskStoreRedis } from "@millrace/redis"
import { TaskStorePostgres } from "@millrace/sql"
import { Task, Tasks, Worker } from "@millrace/tasks"
import { Effect, Layer, Redacted, Schema } from "effect"

export type Kind = "redis" | "postgres" | "rabbitmq"

/** The store at an address. */
export const storeOf = (
  kind: Kind,
  url: string,
  name: string
): Layer.Layer<TaskStore.Store, TaskStore.TaskStoreUnavailable> =>
  kind === "postgres"
    ? TaskStorePostgres.layer({ url: Redacted.make(url), table: name, maximumConnections: 3 })
    : TaskStoreRedis.layer({ url, prefix: name, requestTimeout: "10 seconds" })

/** The broker at an address. */
export const brokerOf = (kind: Kind, url: string): Layer.Layer<Broker.Broker, unknown> =>
  kind === "rabbitmq"
    ? RabbitMq.layer({ url })
    : RedisStreams.layer({ url, consumer: { claim: "1 second" } })

/** The task of a queue: it answers its payload and the process that ran it. */
export const taskOf = (queue: string) => Task.make("work", { queue, payload: Schema.Finite, success: Schema.Finite })

const main = (store: Kind, storeUrl: string, broker: Kind, brokerUrl: string, queue: string) => {
  const worker = Subscription.layer(Subscription.make(
    Tasks.channel(queue),
    { group: "workers", lanes: Lanes.unordered(32), hold: { attempts: 1_000 } },
    Worker.handler(
      [
        Worker.on(taskOf(queue), (number) => Effect.as(Effect.sleep(number % 10), number))
      ],
      { lease: "1 second", attempts: 1_000, name: String(process.pid) }
    )
  ))
  return Effect.runPromise(
    Effect.provide(
      Effect.andThen(Effect.sync(() => process.stdout.write("ready")), Effect.never),
      Layer.merge(worker, Tasks.layer({ handoff: "2 seconds" })).pipe(
        Layer.provide([storeOf(store, storeUrl, queue), brokerOf(broker, brokerUrl)])
      )
    )
  )
}

const [store, storeUrl, broker, brokerUrl, queue] = process.argv.slice(2)
if (process.argv[1] === import.meta.filename) {
  // the test gives them
  await main(store as Kind, storeUrl!, broker as Kind, brokerUrl!, queue!)
}
