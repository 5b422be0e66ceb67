import { it } from "@effect/vitest"
import { type Kafka as Servers } from "@millrace/testing/servers"
import { Effect } from "effect"
import { type AddressInfo, createServer } from "node:net"
import { expect } from "vitest"
import { describeKafka } from "../services/describe.ts"
import { type Client, clients, consuming, eventually, fresh, optionsOf, outgoing, plain, Recorder } from "./support.ts"

/** A port of the IPv6 loopback that leads to an address. */
const leading = (to: string) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const { connect } = await import("node:net")
      const [host, port] = to.split(":")
      const server = createServer((socket) => {
        const other = connect({ host: host!, port: Number(port) })
        for (const [one, two] of [[socket, other], [other, socket]] as const) {
          one.on("error", () => two.destroy()).on("close", () => two.destroy()).pipe(two)
        }
      })
      await new Promise<void>((resolve) => server.listen(0, "::1", resolve))
      return server
    }),
    (server) => Effect.sync(() => server.close())
  )

const addressing = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  it.live("F22 an address of IPv6 is connected to", () =>
    Effect.gen(function*() {
      const server = yield* leading(kafka().brokers[0]!)
      let connections = 0
      server.on("connection", () => connections++)
      const { port } = server.address() as AddressInfo
      const driver = yield* client.driver(optionsOf(kafka(), { brokers: `[::1]:${port}` }))
      expect(connections).toBeGreaterThan(0)
      const channel = fresh("ipv6")
      yield* driver.declare({ channel, partitions: 1 })
      yield* driver.publish([outgoing(channel, "through")])
      const { recorder, stop } = yield* consuming(driver, { channel, group: fresh("group") })
      yield* eventually(() => recorder.texts.includes("through"))
      yield* stop
    }).pipe(Effect.scoped), 60_000)

  it.live(
    "F22 a group without a name, or with a line break in it, is refused with a sentence",
    () =>
      Effect.gen(function*() {
        const driver = yield* client.driver(optionsOf(kafka()))
        const channel = fresh("groups")
        yield* driver.declare({ channel, partitions: 1 })
        for (
          const [group, says] of [["", "empty group"], ["a\nb", "line break"], [
            "a\u0000b",
            "control character"
          ]] as const
        ) {
          const error = yield* Effect.flip(driver.consume({ ...plain, channel, group }, new Recorder()))
          expect(error).toMatchObject({ reason: "Invalid", failure: "permanent", operation: "consume" })
          expect(error.message).toContain(says)
        }
      }).pipe(Effect.scoped),
    60_000
  )
}

for (const client of clients) describeKafka(`addresses and names by ${client.name}`, addressing(client))
