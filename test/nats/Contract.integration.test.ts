import { JetStream, Nats } from "@millrace/nats"
import { BrokerContract } from "@millrace/testing"
import { Nats as Servers } from "@millrace/testing/servers"
import { Effect, Redacted } from "effect"
import { describeServer } from "../services/describe.ts"
import { keepsRow } from "../services/row.ts"

// the stream of each scenario has it once
const instructions = { "Nats-Msg-Id": "contract" }

/** NATS under the suite: a copy of its own, since the suite kills it. */
describeServer("X5, X3, X4, F13, F3, T16, X9 core NATS keeps the contract", Servers.own(), (server) => {
  const shown = BrokerContract.suite(
    "NATS",
    Effect.suspend(() =>
      Effect.map(
        Nats.driver({ servers: Redacted.value(server().url) }),
        (driver): BrokerContract.Subject => ({ driver, stop: server().kill, start: server().start })
      )
    ),
    { missing: "created", maximumBytes: 1024 * 1024, patience: "20 seconds", quiet: "100 millis", instructions }
  )
  keepsRow("NATS core", shown)
})

/** JetStream under the suite. The claims are short enough to be outlived. */
describeServer("X5, X3, X4, F13, F3, T16, X9 JetStream keeps the contract", Servers.own(), (server) => {
  const shown = BrokerContract.suite(
    "JetStream",
    Effect.suspend(() =>
      Effect.map(
        JetStream.driver({
          servers: Redacted.value(server().url),
          consumer: { claim: "2 seconds", takeover: "1 second" }
        }),
        (driver): BrokerContract.Subject => ({ driver, stop: server().kill, start: server().start })
      )
    ),
    { missing: "refused", maximumBytes: 1024 * 1024, patience: "20 seconds", quiet: "100 millis", instructions }
  )
  keepsRow("NATS JetStream", shown)
})
