/**
 * A Node server for Effect's `NodeHttpServer`, with the graceful shutdown and the head timeout of `Listener`.
 */
import { OptionCheck } from "@millrace/core"
import { type Duration, Effect } from "effect"
import type { IncomingMessage, Server, ServerResponse } from "node:http"
import { limitHead } from "./internal/headTimeout.ts"
import { Connections } from "./internal/nodeConnections.ts"

/** Options of `make`. */
export interface Options {
  /**
   * How long a client may take to send a request's head, above 0. The server then answers 408 and closes the connection, at
   * most a quarter of that time later. Default: 20 seconds, or the `headersTimeout` that the server was made with.
   */
  readonly headTimeout?: Duration.Input | undefined
  /** How long accepted requests may take during shutdown; their connections are then closed. Default: 20 seconds. */
  readonly grace?: Duration.Input | undefined
}

/**
 * Makes a Node server whose `close` is a graceful shutdown: the server accepts no new connections, sends every accepted
 * request's answer to its last byte, and half a second later closes connections without a whole request head. Node's own
 * `close` waits for those connections, and cuts answers that are still being sent. After `grace` the server closes all
 * connections.
 *
 * HTTP/1 and HTTPS only.
 *
 * **Example** (a program)
 *
 * ```ts no-run
 * import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
 * import { Health } from "@millrace/core"
 * import { Effect, Layer } from "effect"
 * import { HttpRouter } from "effect/http"
 * import { Server } from "@millrace/http"
 * import * as NodeServer from "@millrace/http/NodeServer"
 * import { createServer } from "node:http"
 *
 * HttpRouter.serve(Server.layer(Server.route("GET", "/hello", () => Effect.succeed({ hello: "world" })))).pipe(
 *   Layer.provide(NodeHttpServer.layer(NodeServer.make(createServer), { port: 8080 })),
 *   Layer.launch,
 *   NodeRuntime.runMain({ teardown: Health.teardown })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const make = (create: () => Server, options: Options = {}): () => Server => {
  const grace = OptionCheck.make("NodeServer").millis("grace", options.grace ?? "20 seconds", { least: 0 })
  const limit = limitHead("NodeServer", options.headTimeout)
  return () => {
    const server = create()
    limit(server)
    const connections = new Connections(server)
    const open = new Set<ServerResponse>()
    let isClosing = false
    let drained: (() => void) | undefined
    server.prependListener("request", (_request: IncomingMessage, response: ServerResponse) => {
      open.add(response)
      if (isClosing) response.shouldKeepAlive = false
      response.once("close", () => {
        open.delete(response)
        if (open.size === 0) drained?.()
      })
    })
    const drain = Effect.callback<void>((resume) => {
      if (open.size === 0) return resume(Effect.void)
      drained = () => resume(Effect.void)
    })
    const close = server.close
    server.close = (callback) => {
      if (isClosing || !server.listening) return close.call(server, callback)
      isClosing = true
      if (callback !== undefined) server.once("close", callback)
      for (const response of open) response.shouldKeepAlive = false
      Effect.runFork(connections.end(drain, grace))
      return server
    }
    return server
  }
}
