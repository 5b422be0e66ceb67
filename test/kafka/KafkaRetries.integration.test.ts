import { it } from "@effect/vitest"
import { Broker } from "@millrace/core"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Effect } from "effect"
import { delayedRetries } from "../memory/delayedRetries.ts"
import { describeKafka } from "../services/describe.ts"
import { type Client, clients, fresh, optionsOf } from "./support.ts"

const retrying = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  it.live(
    "F11 X3 X4 delayed retries wait in retry topics, over several lives, with nothing lost",
    () =>
      Effect.gen(function*() {
        const channel = fresh("retries")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel, partitions: 2 })
        yield* broker.declare({ channel: `${channel}.dead-letters`, partitions: 1 })
        yield* delayedRetries(channel, fresh("group"))
      }).pipe(Effect.scoped, Effect.provide(client.layer(optionsOf(kafka())))),
    120_000
  )
}

for (const client of clients) describeKafka(`delayed retries on Kafka, by ${client.name}`, retrying(client))
