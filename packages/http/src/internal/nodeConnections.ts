/**
 * The connections of a server of Node's, so that it ends without waiting for those that ask nothing.
 */
import { Effect, Fiber } from "effect"
import type { Server } from "node:http"
import { Server as NetServer, type Socket } from "node:net"

/** How long a connection may take to send the rest of a request's head once the server ends, in milliseconds. */
const lastMoments = 500

/** How often connections are looked at that still send an answer, in milliseconds. */
const lookEvery = 50

const idOf = (socket: Socket): unknown =>
  socket.remotePort === undefined ? socket : `${socket.remoteAddress} ${socket.remotePort}`

/** Stops listening. Node's own `close` of HTTP servers would also cut answers that are still being sent. */
const close = (server: Server): Effect.Effect<void> =>
  Effect.callback((resume) => void NetServer.prototype.close.call(server, () => resume(Effect.void)))

/** Follows the open connections of a server; of TLS the encrypted side, once there is one. */
export class Connections {
  readonly #server: Server
  readonly #sockets = new Map<unknown, Socket>()

  constructor(server: Server) {
    this.#server = server
    const opened = (socket: Socket) => {
      const id = idOf(socket)
      this.#sockets.set(id, socket)
      socket.once("close", () => {
        if (this.#sockets.get(id) === socket) this.#sockets.delete(id)
      })
    }
    server.on("connection", opened).on("secureConnection", opened)
  }

  /**
   * Ends the server: nothing more is accepted, `drain` completes when all accepted requests are answered, and connections that have
   * sent no whole request by then are closed. After `grace` milliseconds all are.
   */
  end(drain: Effect.Effect<void>, grace: number): Effect.Effect<void> {
    const shut = (closed: Fiber.Fiber<void>) =>
      Effect.gen({ self: this }, function*() {
        this.#closeIdle()
        yield* drain
        this.#closeIdle()
        yield* Effect.race(Fiber.await(closed), Effect.sleep(lastMoments))
        while (closed.pollUnsafe() === undefined) {
          yield* drain
          this.#destroy(({ writableLength }) => writableLength === 0)
          yield* Effect.race(Fiber.await(closed), Effect.sleep(lookEvery))
        }
      })
    return Effect.gen({ self: this }, function*() {
      const closed = yield* Effect.forkChild(close(this.#server), { startImmediately: true })
      yield* Effect.timeoutOrElse(shut(closed), { duration: grace, orElse: () => Effect.void })
      this.#destroy(() => true)
      yield* Fiber.await(closed)
      // stops its timers
      this.#server.close()
    })
  }

  /** Closes connections that wait for a next request. Node takes those for idle, too, whose answer is still being sent. */
  #closeIdle(): void {
    for (const { writableLength } of this.#sockets.values()) if (writableLength > 0) return
    this.#server.closeIdleConnections()
  }

  #destroy(isChosen: (socket: Socket) => boolean): void {
    for (const socket of this.#sockets.values()) if (isChosen(socket)) socket.destroy()
  }
}
