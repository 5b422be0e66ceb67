/**
 * Writes a response by Node's own.
 */
import { type Context, Effect } from "effect"
import { Cookies, HttpServerResponse } from "effect/http"
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http"
import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"

/** What is read and dropped of a body that nobody wanted, so that its connection can go on; in bytes. */
const mostDropped = 256 * 1024

/** How long a client may take to read its answer once its body is no longer read, in milliseconds. */
const lastMoments = 500

const headersOf = (response: HttpServerResponse.HttpServerResponse): OutgoingHttpHeaders => {
  if (Cookies.isEmpty(response.cookies)) return response.headers as OutgoingHttpHeaders
  return { ...response.headers, "set-cookie": Cookies.toSetCookieHeaders(response.cookies) }
}

/** A body that was not read is dropped, where it is short, and its connection closed, where it is not. */
const leave = (request: IncomingMessage, node: ServerResponse): void => {
  const announced = request.headers["content-length"]
  // Node tells the end of a request that has no body only after its listener has run
  if (request.headers["transfer-encoding"] === undefined && (announced === undefined || announced === "0")) return
  if (Number(announced ?? 0) > mostDropped) node.shouldKeepAlive = false
  // before Node's own listener, which would read all that is sent
  node.prependListener("finish", () => {
    if (request.complete || request.destroyed) return
    const { socket } = request
    let dropped = 0
    const stop = () => {
      request.off("data", drop).pause()
      socket.end()
      socket.setTimeout(lastMoments, () => socket.destroy())
    }
    const drop = (chunk: Buffer) => {
      dropped += chunk.length
      if (dropped > mostDropped) stop()
    }
    if (node.shouldKeepAlive) request.on("data", drop).resume()
    else stop()
  })
}

const failed = (node: ServerResponse): void => {
  if (node.headersSent) return void node.destroy()
  node.writeHead(500)
  node.end()
}

/** Writes at once what is at hand; what is a stream goes on in an effect. */
export const write = (
  request: IncomingMessage,
  node: ServerResponse,
  response: HttpServerResponse.HttpServerResponse,
  context: Context.Context<never>
): Effect.Effect<void> | undefined => {
  if (node.destroyed || node.writableEnded) return undefined
  if (!request.complete) leave(request, node)
  const { body, status } = response
  try {
    if (body._tag === "Uint8Array" && request.method !== "HEAD" && !HttpServerResponse.omitsBody(response)) {
      node.writeHead(status, headersOf(response))
      node.end(body.text ?? body.body)
      return undefined
    }
    if (body._tag === "Empty" || request.method === "HEAD" || HttpServerResponse.omitsBody(response)) {
      node.writeHead(status, headersOf(response))
      node.end()
      return undefined
    }
    const web = HttpServerResponse.toWeb(response, { context })
    const cookies = web.headers.getSetCookie()
    node.writeHead(status, {
      ...Object.fromEntries(web.headers),
      ...(cookies.length === 0 ? {} : { "set-cookie": cookies })
    })
    if (web.body === null) return void node.end()
    // two names of one type: the platform's and Node's
    const stream = Readable.fromWeb(web.body as Parameters<typeof Readable.fromWeb>[0])
    return Effect.promise((signal) => pipeline(stream, node, { signal }).catch(() => failed(node)))
  } catch {
    // Node refuses a header or a status
    failed(node)
    return undefined
  }
}
