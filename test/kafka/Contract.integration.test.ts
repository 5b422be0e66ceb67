import { Kafka } from "@millrace/kafka"
import { BrokerContract } from "@millrace/testing"
import { Kafka as Servers } from "@millrace/testing/servers"
import { Effect } from "effect"
import { describeServer } from "../services/describe.ts"
import { optionsOf } from "./support.ts"

/** Kafka under the suite: a copy of its own, since the suite kills it. */
describeServer("X5, X3, X4, F13, F3, T16, X9 Kafka keeps the contract", Servers.own(), (server) => {
  BrokerContract.suite(
    "Kafka",
    Effect.suspend(() =>
      Effect.map(
        Kafka.driver(optionsOf(server(), { producer: { retryFor: "2 seconds" } })),
        (driver): BrokerContract.Subject => ({ driver, stop: server().kill, start: server().start })
      )
    ),
    { missing: "refused", maximumBytes: 1024 * 1024 - 1024, patience: "40 seconds", quiet: "300 millis" }
  )
})
