/**
 * Writes a response to Node's `ServerResponse`.
 */
import { Cause, type Context, Effect } from "effect"
import { Cookies, HttpServerResponse } from "effect/http"
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http"
import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"
import { isWaiting } from "./nodeRequest.ts"
import * as Problem from "../Problem.ts"

/** The most bytes of an unread body that are read and dropped so that the connection can be reused. */
const mostDropped = 256 * 1024

/** How long a client may take to read its answer after the server has stopped reading its body, in milliseconds. */
const lastMoments = 500

const bodyFields: ReadonlySet<string> = new Set(["content-length", "transfer-encoding"])

/** Removes the body headers of 204 and 205 responses, which have no body (RFC 9110, 8.6 and 15.3.6). */
const fieldsOf = ({ headers, status }: HttpServerResponse.HttpServerResponse): { readonly [name: string]: string } =>
  status !== 204 && status !== 205
    ? headers
    : Object.fromEntries(Object.entries(headers).filter(([name]) => !bodyFields.has(name)))

const headersOf = (response: HttpServerResponse.HttpServerResponse): OutgoingHttpHeaders => {
  const fields: OutgoingHttpHeaders = fieldsOf(response)
  if (Cookies.isEmpty(response.cookies)) return fields
  const cookies = Cookies.toSetCookieHeaders(response.cookies)
  const own = response.headers["set-cookie"]
  return { ...fields, "set-cookie": own === undefined ? cookies : [...cookies, own] }
}

/** Drops the unread rest of a short request body, and closes the connection of a long one. */
const leave = (request: IncomingMessage, node: ServerResponse, closes: boolean): void => {
  const announced = request.headers["content-length"]
  // for a request without a body, Node emits the end only after the listener has run
  if (request.headers["transfer-encoding"] === undefined && (announced === undefined || announced === "0")) return
  if (closes || isWaiting(request) || Number(announced ?? 0) > mostDropped) node.shouldKeepAlive = false
  // before Node's own listener, which would read the whole rest of the body
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

/** Releases the file or the connection of a response body that is not sent. */
const cancel = ({ body }: HttpServerResponse.HttpServerResponse): void => {
  if (body._tag !== "Raw") return
  const raw = body.body
  const stream = raw instanceof Response ? raw.body : raw
  if (stream instanceof Readable) stream.once("error", () => {}).destroy()
  else if (stream instanceof ReadableStream) stream.cancel().catch(() => {})
}

/** The context of streamed bodies, and the observer of answers that cannot be sent. */
export interface Sending {
  /** The services for reading a streamed body. */
  readonly context: Context.Context<never>
  /** Reports an answer that Node refuses, or a body that breaks off. */
  readonly lost: (cause: Cause.Cause<unknown>) => Effect.Effect<void>
}

const internal = Problem.toResponse(Problem.of(Problem.defaults, undefined))

/**
 * Answers with 500 if nothing was sent yet; otherwise closes the connection, so that a truncated answer does not look complete.
 */
const failed = (node: ServerResponse): void => {
  if (node.headersSent) return void node.destroy()
  // Node has already set the status phrase of the refused answer
  node.writeHead(500, "Internal Server Error", headersOf(internal))
  node.end(internal.body._tag === "Uint8Array" ? internal.body.body : undefined)
}

const isGone = (error: unknown): boolean =>
  error instanceof Error && "code" in error &&
  (error.code === "ERR_STREAM_PREMATURE_CLOSE" || error.code === "ABORT_ERR" || error.code === "ECONNRESET" ||
    error.code === "EPIPE")

const streamed = (
  node: ServerResponse,
  response: HttpServerResponse.HttpServerResponse,
  { context, lost }: Sending
): Effect.Effect<void> | undefined => {
  const web = HttpServerResponse.toWeb(response, { context })
  const { body } = response
  const isWeb = body._tag === "Raw" && body.body instanceof Response
  const cookies = isWeb ? web.headers.getSetCookie() : headersOf(response)["set-cookie"]
  node.writeHead(response.status, {
    ...Object.fromEntries(web.headers),
    ...(cookies === undefined || cookies.length === 0 ? {} : { "set-cookie": cookies })
  })
  if (web.body === null) return void node.end()
  // the platform and Node declare the same type under two names
  const stream = Readable.fromWeb(web.body as Parameters<typeof Readable.fromWeb>[0])
  return Effect.callback<void>((resume, signal) => {
    pipeline(stream, node, { signal }).then(
      () => resume(Effect.void),
      (error: unknown) => {
        failed(node)
        // a stream of a route logs its own failure
        resume(response.body._tag === "Stream" || isGone(error) ? Effect.void : lost(Cause.die(error)))
      }
    )
  })
}

/** Writes a response. Bytes are written at once; for a stream, the returned effect sends the body. */
export const write = (
  request: IncomingMessage,
  node: ServerResponse,
  response: HttpServerResponse.HttpServerResponse,
  sending: Sending
): Effect.Effect<void> | undefined => {
  if (node.destroyed || node.writableEnded) return void cancel(response)
  if (!request.complete) leave(request, node, response.headers["connection"] === "close")
  const { body, status } = response
  try {
    if (body._tag === "Empty" || request.method === "HEAD" || HttpServerResponse.omitsBody(response)) {
      cancel(response)
      node.writeHead(status, headersOf(response))
      node.end()
      return undefined
    }
    if (body._tag === "Uint8Array") {
      node.writeHead(status, headersOf(response))
      node.end(body.text ?? body.body)
      return undefined
    }
    return streamed(node, response, sending)
  } catch (defect) {
    // Node refuses a header or a status
    cancel(response)
    failed(node)
    return sending.lost(Cause.die(defect))
  }
}
