/**
 * A request of Effect's servers as a source.
 */
import type { Headers } from "@millrace/core"
import { ByteSize, Context, Effect, Exit, Fiber, Option, Scope } from "effect"
import { HttpIncomingMessage, type HttpServerError, type HttpServerRequest } from "effect/http"
import { BodyTooLarge, BodyUnreadable } from "./bodyErrors.ts"
import type { Source } from "../Request.ts"
import { pathOf } from "./target.ts"

type ReadError = BodyTooLarge | BodyUnreadable

/** Whether the server's error means that the body exceeds its limit. */
export const isTooLarge = ({ reason }: HttpServerError.HttpServerError): boolean => {
  if (reason._tag !== "RequestParseError") return false
  const { cause } = reason
  return reason.reason === "BodyTooLarge" || (cause instanceof Error && cause.message === "maxBytes exceeded")
}

const has = <Name extends string>(source: object, name: Name): source is { readonly [K in Name]: unknown } =>
  name in source

/** Whether bytes of the body were read before, of a Node request or of a web request. */
const wasRead = (source: object): boolean =>
  (has(source, "readableDidRead") && source.readableDidRead === true) ||
  (has(source, "bodyUsed") && source.bodyUsed === true)

const consumed = () =>
  new BodyUnreadable({
    message: "The body was read before the route, and its bytes were not kept: read it inside the route, with Body",
    reason: "consumed"
  })

/** Whether there are fewer bytes than the client announced. */
const isShort = (headers: Headers.Headers, { length }: Uint8Array): boolean => {
  if (headers["content-encoding"] !== undefined) return false
  const announced = headers["content-length"]
  return announced === undefined
    ? length === 0 && headers["transfer-encoding"] !== undefined
    : length < Number(announced)
}

/** Reads the body by Effect's own request, which caches bytes that were read through it. Bytes read in another way are lost. */
const read = (request: HttpServerRequest.HttpServerRequest, limit: number): Effect.Effect<Uint8Array, ReadError> => {
  const before = wasRead(request.source)
  return Effect.provideService(request.arrayBuffer, HttpIncomingMessage.MaxBodySize, ByteSize.bytes(limit)).pipe(
    Effect.mapError((error) =>
      isTooLarge(error)
        ? new BodyTooLarge({ limit })
        : before
        ? consumed()
        : new BodyUnreadable({
          message: "The body could not be read to its end: the client has closed the connection",
          reason: "incomplete",
          cause: error
        })
    ),
    Effect.flatMap((buffer) => {
      const bytes = new Uint8Array(buffer)
      return before && isShort(request.headers, bytes) ? Exit.fail(consumed()) : Exit.succeed(bytes)
    })
  )
}

/** A request of Effect's servers as a source. */
export class RouterSource implements Source {
  readonly request: HttpServerRequest.HttpServerRequest
  readonly params: Source["params"]
  readonly #scope: Scope.Scope | undefined
  #reading: Fiber.Fiber<Uint8Array, ReadError> | undefined = undefined
  #url: string | undefined = undefined

  /** `context` is the context of the route; the server closes its scope once the answer has been sent. */
  constructor(
    request: HttpServerRequest.HttpServerRequest,
    params: Source["params"],
    context: Context.Context<never> | undefined
  ) {
    this.request = request
    this.params = params
    this.#scope = context === undefined ? undefined : Context.getOrUndefined(context, Scope.Scope)
  }
  get method() {
    return this.request.method
  }
  /**
   * Path and query of the received target, also if the router cut off a prefix. `originalUrl` would include the client's host
   * header.
   */
  get url() {
    if (this.#url !== undefined) return this.#url
    const { source } = this.request
    return this.#url = pathOf(has(source, "url") && typeof source.url === "string" ? source.url : this.request.url)
  }
  get headers() {
    return this.request.headers
  }
  get address() {
    return Option.getOrUndefined(this.request.remoteAddress)
  }
  get scheme() {
    return this.request.protocol ?? (this.request.originalUrl.startsWith("https:") ? "https" : "http")
  }
  atEnd(effect: Effect.Effect<void>): void {
    // an already closed scope runs the effect at once
    if (this.#scope !== undefined) Effect.runFork(Scope.addFinalizer(this.#scope, effect))
  }
  /** Reads on a separate fiber, so an interrupted caller loses no bytes for the next caller. */
  body(limit: number): Effect.Effect<Uint8Array, ReadError> {
    return Effect.withFiber((fiber) => {
      if (this.#reading === undefined) {
        const reading = this.#reading = Effect.runForkWith(fiber.context)(read(this.request, limit))
        if (reading.pollUnsafe() === undefined) this.atEnd(Fiber.interrupt(reading))
      }
      return this.#reading.pollUnsafe() ?? Fiber.join(this.#reading)
    })
  }
}
