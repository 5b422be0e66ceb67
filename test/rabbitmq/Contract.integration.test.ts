import { RabbitMq } from "@millrace/rabbitmq"
import { BrokerContract } from "@millrace/testing"
import { RabbitMq as Servers } from "@millrace/testing/servers"
import { Effect } from "effect"
import { describeServer } from "../services/describe.ts"
import { keepsRow } from "../services/row.ts"
import { optionsOf } from "./support.ts"

const most = 1024 * 1024

/** RabbitMQ under the suite: a copy of its own, since the suite kills it. */
describeServer(
  "X5, X3, X4, F13, F3, T16, X9 RabbitMQ keeps the contract",
  Servers.own({ settings: { max_message_size: String(most) } }),
  (server) => {
    for (const queueType of ["quorum", "classic"] as const) {
      const shown = BrokerContract.suite(
        `RabbitMQ, ${queueType} queues`,
        Effect.suspend(() =>
          Effect.map(
            RabbitMq.driver(optionsOf(server(), { queueType, requestTimeout: "10 seconds" })),
            (driver): BrokerContract.Subject => ({
              driver,
              // what the node knows of queues reaches its disk with some delay; a program finds them there for long
              stop: Effect.andThen(server().sync, server().kill),
              start: server().start
            })
          )
        ),
        {
          missing: "refused",
          maximumBytes: most,
          patience: "40 seconds",
          quiet: "300 millis",
          instructions: { "x-delay": "60000", "amqp-expiration": "600000", "amqp-priority": "3" }
        }
      )
      keepsRow(`RabbitMQ, ${queueType}`, shown)
    }
  }
)
