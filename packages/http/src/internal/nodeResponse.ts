/**
 * Writes a response by Node's own.
 */
import { Cause, type Context, Effect } from "effect"
import { Cookies, HttpServerResponse } from "effect/http"
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http"
import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"
import { isWaiting } from "./nodeRequest.ts"
import * as Problem from "../Problem.ts"

/** What is read and dropped of a body that nobody wanted, so that its connection can go on; in bytes. */
const mostDropped = 256 * 1024

/** How long a client may take to read its answer once its body is no longer read, in milliseconds. */
const lastMoments = 500

const bodyFields: ReadonlySet<string> = new Set(["content-length", "transfer-encoding"])

/** RFC 9110, 8.6 and 15.3.6: an answer of 204 has no length, since it has no body. */
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

/** A body that was not read is dropped, where it is short, and its connection closed, where it is not. */
const leave = (request: IncomingMessage, node: ServerResponse, closes: boolean): void => {
  const announced = request.headers["content-length"]
  // Node tells the end of a request that has no body only after its listener has run
  if (request.headers["transfer-encoding"] === undefined && (announced === undefined || announced === "0")) return
  if (closes || isWaiting(request) || Number(announced ?? 0) > mostDropped) node.shouldKeepAlive = false
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

/** Releases the file or the connection of a body that is not sent. */
const cancel = ({ body }: HttpServerResponse.HttpServerResponse): void => {
  if (body._tag !== "Raw") return
  const raw = body.body
  const stream = raw instanceof Response ? raw.body : raw
  if (stream instanceof Readable) stream.once("error", () => {}).destroy()
  else if (stream instanceof ReadableStream) stream.cancel().catch(() => {})
}

/** The observer of answers that cannot be sent. */
export interface Sending {
  /** The services that a streamed body is read with. */
  readonly context: Context.Context<never>
  /** Told of an answer that Node refuses, and of a body that breaks off. */
  readonly lost: (cause: Cause.Cause<unknown>) => Effect.Effect<void>
}

const internal = Problem.toResponse(Problem.of(Problem.defaults, undefined))

/** Answers with 500 where nothing was sent yet, and closes the connection otherwise: a cut answer must not look whole. */
const failed = (node: ServerResponse): void => {
  if (node.headersSent) return void node.destroy()
  // the refused answer has left its own phrase
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
  // two names of one type: the platform's and Node's
  const stream = Readable.fromWeb(web.body as Parameters<typeof Readable.fromWeb>[0])
  return Effect.callback<void>((resume, signal) => {
    pipeline(stream, node, { signal }).then(
      () => resume(Effect.void),
      (error: unknown) => {
        failed(node)
        // the stream of a route tells of itself
        resume(response.body._tag === "Stream" || isGone(error) ? Effect.void : lost(Cause.die(error)))
      }
    )
  })
}

/** Writes at once what is at hand; what is a stream goes on in an effect. */
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
    // Node refuses a field or a status
    cancel(response)
    failed(node)
    return sending.lost(Cause.die(defect))
  }
}
