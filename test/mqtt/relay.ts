import type { Mosquitto } from "@millrace/testing/servers"
import { Effect, Redacted, type Scope } from "effect"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"

/** One packet of MQTT on the wire. */
export interface Frame {
  readonly bytes: Buffer
  /** The first four bits: 3 PUBLISH, 4 PUBACK, 5 PUBREC, 6 PUBREL, 7 PUBCOMP … */
  readonly type: number
  /** The packet's number, of PUBLISH above QoS 0 and of its answers. */
  readonly id: number | undefined
  readonly qos: number
}

/** Takes whole packets from the front of what has come. */
const frames = (bytes: Buffer): readonly [ReadonlyArray<Frame>, Buffer] => {
  const found: Array<Frame> = []
  let rest = bytes
  while (rest.length >= 2) {
    let length = 0
    let at = 1
    for (let shift = 0;; shift += 7) {
      if (at >= rest.length) return [found, rest]
      length |= (rest[at]! & 127) << shift
      if ((rest[at++]! & 128) === 0) break
    }
    if (rest.length < at + length) break
    const type = rest[0]! >> 4
    const qos = type === 3 ? (rest[0]! >> 1) & 3 : 0
    const id = type === 3
      ? qos === 0 ? undefined : rest.readUInt16BE(at + 2 + rest.readUInt16BE(at))
      : type >= 4 && type <= 11
      ? rest.readUInt16BE(at)
      : undefined
    found.push({ bytes: rest.subarray(0, at + length), type, id, qos })
    rest = rest.subarray(at + length)
  }
  return [found, rest]
}

/** Stands between clients and a server: writes down what passes, and loses what it is told to lose. */
export interface Relay {
  readonly url: Redacted.Redacted<string>
  readonly toServer: Array<Frame>
  readonly toClient: Array<Frame>
  /** Where it answers true, this packet of a client does not arrive, and its connection ends. */
  lose: (frame: Frame) => boolean
  /** What arrives in place of this packet of the server. */
  change: (frame: Frame) => Buffer
  /** Where it answers true, this packet of the server does not arrive, and nothing else happens. */
  hold: (frame: Frame) => boolean
}

/** A relay before a server, as long as the scope is open. */
export const relay = (server: Mosquitto.MosquittoServer): Effect.Effect<Relay, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Relay & { readonly close: () => void }>((resume) => {
      const target = new URL(Redacted.value(server.url))
      const [port, host] = [Number(target.port), target.hostname]
      const sockets = new Set<Socket>()
      const made = {
        url: server.url,
        toServer: [],
        toClient: [],
        lose: () => false,
        hold: () => false,
        change: ({ bytes }) => bytes
      } as {
        -readonly [K in keyof Relay]: Relay[K]
      }
      const listener = createServer((client) => {
        const upstream = connect(port, host)
        sockets.add(client).add(upstream)
        const end = () => {
          client.destroy()
          upstream.destroy()
        }
        let [up, down]: [Buffer, Buffer] = [Buffer.alloc(0), Buffer.alloc(0)]
        client.on("data", (chunk) => {
          const [found, rest] = frames(Buffer.concat([up, chunk]))
          up = rest
          for (const frame of found) {
            if (made.lose(frame)) return end()
            made.toServer.push(frame)
            upstream.write(frame.bytes)
          }
        })
        upstream.on("data", (chunk) => {
          const [found, rest] = frames(Buffer.concat([down, chunk]))
          down = rest
          for (const frame of found) {
            if (made.hold(frame)) continue
            made.toClient.push(frame)
            client.write(made.change(frame))
          }
        })
        client.on("error", end).on("close", end)
        // the server's last words still arrive
        upstream.on("error", () => client.end()).on("close", () => client.end())
      })
      listener.listen(0, "127.0.0.1", () => {
        target.port = String((listener.address() as AddressInfo).port)
        made.url = Redacted.make(target.href)
        resume(Effect.succeed(Object.assign(made, {
          close: () => {
            listener.close()
            for (const socket of sockets) socket.destroy()
          }
        })))
      })
    }),
    ({ close }) => Effect.sync(close)
  )
