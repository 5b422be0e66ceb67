/**
 * The contract on a newer Kafka, whose version the environment names: `MILLRACE_KAFKA_NEXT=4.4.0 pnpm test KafkaNext`. Maven downloads it
 * once. Without the variable the file is left out.
 */
import { Kafka as Servers } from "@millrace/testing/servers"
import { describeServer } from "../services/describe.ts"
import { properties, suite } from "./contract.ts"
import { clients } from "./support.ts"

const version = process.env["MILLRACE_KAFKA_NEXT"] ?? Servers.version

for (const client of clients) {
  describeServer(
    `X5 Kafka ${version} keeps the contract by ${client.name}`,
    Servers.own({ version, properties }),
    (server) => void suite(client, server)
  )
}
