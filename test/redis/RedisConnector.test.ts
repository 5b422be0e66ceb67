import { Redis } from "ioredis"
import { once } from "node:events"
import { createServer } from "node:net"
import { assert, it } from "vitest"
import { connectorOf } from "../../packages/redis/src/internal/client/Connection.ts"

it("E1 a socket that tells more than one error, as a TLS socket may, ends no process", async () => {
  const server = createServer((socket) => socket.on("error", () => {}).on("data", () => socket.write("+OK\r\n")))
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  if (address === null || typeof address === "string") throw new Error("no port")
  const client = new Redis({
    lazyConnect: true,
    enableReadyCheck: false,
    retryStrategy: null,
    Connector: connectorOf({ host: "127.0.0.1", port: address.port }, undefined)
  })
  const told: Array<string> = []
  client.on("error", (error: Error) => told.push(error.message))
  // what the server answers does not matter
  client.connect().catch(() => {})
  await once(client, "connect")
  const socket = Reflect.get(client, "stream")
  for (const text of ["first", "second", "third"]) socket.emit("error", new Error(text))
  assert.deepStrictEqual(told, ["first"])
  client.disconnect()
  server.close()
})

it("a connection that is closed while it opens is refused, and one to a closed port tells its error", async () => {
  const closed = new (connectorOf({ host: "127.0.0.1", port: 1 }, undefined))()
  const opening = closed.connect(() => {})
  closed.disconnect()
  await opening.then(() => assert.fail("it opened"), (error: Error) => assert.match(error.message, /closed/))
  const refused = new (connectorOf({ host: "127.0.0.1", port: 1 }, undefined))()
  const socket = await refused.connect(() => {})
  await new Promise((resolve) => socket.once("close", resolve))
  assert.match(String(refused.firstError?.message), /ECONNREFUSED/)
})
