/**
 * Tracks the connections of a Node server, so that a graceful shutdown does not wait for idle connections.
 */
import { Effect, Fiber } from "effect"
import type { Server } from "node:http"
import { Server as NetServer, type Socket } from "node:net"

/** How long a connection may take to send the rest of a request's head during shutdown, in milliseconds. */
const lastMoments = 500

/** The interval for checking connections that still send an answer, in milliseconds. */
const lookEvery = 50

const idOf = (socket: Socket): unknown =>
  socket.remotePort === undefined ? socket : `${socket.remoteAddress} ${socket.remotePort}`

/** Stops listening. The `close` of Node's HTTP server would also cut answers that are still being sent. */
const close = (server: Server): Effect.Effect<void> =>
  Effect.callback((resume) => void NetServer.prototype.close.call(server, () => resume(Effect.void)))

/** Tracks the open connections of a server; for TLS the encrypted socket, once it exists. */
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
   * Shuts the server down: stops listening, waits for `drain` (all accepted requests are answered), and half a second later
   * closes connections without a whole request. Closes all connections after `grace` milliseconds.
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
      // stops the server's timers
      this.#server.close()
    })
  }

  /** Closes idle connections. Skipped while an answer is being sent, because Node counts such a connection as idle, too. */
  #closeIdle(): void {
    for (const { writableLength } of this.#sockets.values()) if (writableLength > 0) return
    this.#server.closeIdleConnections()
  }

  #destroy(isChosen: (socket: Socket) => boolean): void {
    for (const socket of this.#sockets.values()) if (isChosen(socket)) socket.destroy()
  }
}
