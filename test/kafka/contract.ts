import { BrokerContract } from "@millrace/testing"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Effect } from "effect"
import { type Client, grow, optionsOf } from "./support.ts"

/** By the protocol "consumer" the broker says how often members give a sign of life, and only then they hear what has moved. */
export const properties = {
  "group.consumer.min.heartbeat.interval.ms": "100",
  "group.consumer.heartbeat.interval.ms": "250",
  "group.consumer.min.session.timeout.ms": "1000",
  "group.consumer.session.timeout.ms": "6000"
}

/** The contract suite by a client, on a server that it may kill. */
export const suite = (client: Client, server: () => Servers.KafkaServer): BrokerContract.Shown =>
  BrokerContract.suite(
    `Kafka by ${client.name}`,
    Effect.suspend(() =>
      Effect.map(
        client.driver(optionsOf(server(), { producer: { retryFor: "2 seconds" } })),
        (driver): BrokerContract.Subject => ({
          driver,
          stop: server().kill,
          start: server().start,
          grow: (channel, partitions) => Effect.tryPromise(() => grow(server().brokers, channel, partitions))
        })
      )
    ),
    { missing: "refused", maximumBytes: 1024 * 1024 - 1024, patience: "40 seconds", quiet: "300 millis" }
  )
