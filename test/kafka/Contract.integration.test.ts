import { Kafka as Servers } from "@millrace/testing/servers"
import { describeServer } from "../services/describe.ts"
import { keepsRow } from "../services/row.ts"
import { properties, suite } from "./contract.ts"
import { clients } from "./support.ts"

/** Kafka under the suite, by each client: a copy of its own, since the suite kills it. */
for (const client of clients) {
  describeServer(
    `X5, X3, X4, F13, F3, T16, X9 Kafka keeps the contract by ${client.name}`,
    Servers.own({ properties }),
    (server) => keepsRow(`Kafka, ${client.name}`, suite(client, server))
  )
}
