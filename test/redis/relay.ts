import { Effect } from "effect"
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net"

/** An address that leads to a server: to another one when it is told so, and to silence. */
export interface Relay {
  readonly port: number
  /** Where connections that are made from now on lead to. */
  target: number
  /** Whether bytes are dropped in both directions; connections are taken all the same. */
  isSilent: boolean
  /** The bytes that pass from the server in a millisecond. */
  pace: number
}

/** Opens a relay that closes with the scope. */
export const relay = (target: number) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<{ readonly server: Server; readonly sockets: Set<Socket>; readonly relay: Relay }>((resume) => {
        const sockets = new Set<Socket>()
        const relay = { port: 0, target, isSilent: false, pace: Infinity }
        const server = createServer((client) => {
          const upstream = connect(relay.target, "127.0.0.1")
          for (const [from, to] of [[client, upstream], [upstream, client]] as const) {
            sockets.add(from)
            from.on("error", () => {})
            from.on("data", (bytes) => {
              if (!relay.isSilent) to.write(bytes)
              if (from === client || relay.pace === Infinity) return
              from.pause()
              setTimeout(() => from.resume(), bytes.length / relay.pace)
            })
            from.on("close", () => {
              sockets.delete(from)
              to.destroy()
            })
          }
        }).listen(0, "127.0.0.1", () => {
          relay.port = (server.address() as AddressInfo).port
          resume(Effect.succeed({ server, sockets, relay }))
        })
      }),
      ({ server, sockets }) =>
        Effect.sync(() => {
          server.close()
          for (const socket of sockets) socket.destroy()
        })
    ),
    ({ relay }) => relay
  )
