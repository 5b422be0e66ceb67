import { BrokerContract } from "@millrace/testing"
import { Kafka as Servers } from "@millrace/testing/servers"
import { Effect } from "effect"
import { describeServer } from "../services/describe.ts"
import { keepsRow } from "../services/row.ts"
import { clients, grow, optionsOf } from "./support.ts"

/** By the protocol "consumer" the broker says how often members give a sign of life, and only then they hear what has moved. */
const properties = {
  "group.consumer.min.heartbeat.interval.ms": "100",
  "group.consumer.heartbeat.interval.ms": "250",
  "group.consumer.min.session.timeout.ms": "1000",
  "group.consumer.session.timeout.ms": "6000"
}

/** Kafka under the suite, by each client: a copy of its own, since the suite kills it. */
for (const client of clients) {
  describeServer(
    `X5, X3, X4, F13, F3, T16, X9 Kafka keeps the contract by ${client.name}`,
    Servers.own({ properties }),
    (server) => {
      const shown = BrokerContract.suite(
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
      keepsRow(`Kafka, ${client.name}`, shown)
    }
  )
}
