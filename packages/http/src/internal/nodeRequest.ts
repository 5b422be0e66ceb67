/**
 * A Node request as a source. The body is read once; its chunks are joined by at most one copy.
 */
import type { Headers } from "@millrace/core"
import { Effect, Exit } from "effect"
import type { IncomingMessage, ServerResponse } from "node:http"
import { BodyTooLarge, BodyUnreadable } from "./bodyErrors.ts"
import type { Source } from "../Request.ts"
import { absoluteOf, pathOf } from "./target.ts"

type Read = Exit.Exit<Uint8Array, BodyTooLarge | BodyUnreadable>

const gone = (cause?: unknown): Read =>
  Exit.fail(
    new BodyUnreadable({
      message: "The body could not be read to its end: the client has closed the connection",
      reason: "incomplete",
      cause
    })
  )

const consumed: Read = Exit.fail(
  new BodyUnreadable({ message: "The body was read before the route, and its bytes were not kept", reason: "consumed" })
)

/** Requests whose client waits for `100 Continue` before sending the body. */
const waiting = new WeakSet<IncomingMessage>()

/** Marks a request of Node's event `checkContinue`, so that reading its body sends `100 Continue`. */
export const markWaiting = (request: IncomingMessage): void => void waiting.add(request)

/** Whether `100 Continue` was not sent yet. The client may never send the body, so the connection cannot be reused. */
export const isWaiting = (request: IncomingMessage): boolean => waiting.has(request)

interface Waiter {
  readonly limit: number
  readonly resume: (exit: Read) => void
}

/** Reads one body once, for all callers. An interrupted caller loses no bytes for the next caller. */
class BodyReader {
  readonly #request: IncomingMessage
  readonly #response: ServerResponse
  readonly #chunks: Array<Buffer> = []
  readonly #waiters = new Set<Waiter>()
  #size = 0
  #exit: Read | undefined

  constructor(request: IncomingMessage, response: ServerResponse) {
    this.#request = request
    this.#response = response
    if (request.readableDidRead) this.#exit = consumed
    else if (request.destroyed) this.#exit = gone()
  }

  read(limit: number): Effect.Effect<Uint8Array, BodyTooLarge | BodyUnreadable> {
    return Effect.callback((resume) => {
      if (this.#size > limit) return resume(Exit.fail(new BodyTooLarge({ limit })))
      if (this.#exit !== undefined) return resume(this.#exit)
      const waiter: Waiter = { limit, resume }
      if (this.#waiters.size === 0) this.#attach()
      this.#waiters.add(waiter)
      return Effect.sync(() => this.#leave(waiter))
    })
  }

  #attach(): void {
    const request = this.#request
    if (waiting.delete(request) && !this.#response.headersSent) this.#response.writeContinue()
    request.on("data", this.#onData).on("end", this.#onEnd).on("error", this.#onError).on("close", this.#onClose)
    if (request.isPaused()) request.resume()
  }

  #detach(): void {
    const request = this.#request
    request.off("data", this.#onData).off("end", this.#onEnd).off("error", this.#onError).off("close", this.#onClose)
    // the response decides whether to drop the rest or to close the connection
    if (!request.complete) request.pause()
  }

  #leave(waiter: Waiter): void {
    if (this.#waiters.delete(waiter) && this.#waiters.size === 0) this.#detach()
  }

  #finish(exit: Read): void {
    this.#exit = exit
    this.#detach()
    for (const { resume } of this.#waiters) resume(exit)
    this.#waiters.clear()
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#chunks.push(chunk)
    this.#size += chunk.length
    for (const waiter of this.#waiters) {
      if (this.#size <= waiter.limit) continue
      this.#leave(waiter)
      waiter.resume(Exit.fail(new BodyTooLarge({ limit: waiter.limit })))
    }
  }
  readonly #onEnd = (): void => {
    const [first] = this.#chunks
    this.#finish(Exit.succeed(this.#chunks.length === 1 ? first! : Buffer.concat(this.#chunks, this.#size)))
  }
  readonly #onError = (cause: unknown): void => this.#finish(gone(cause))
  readonly #onClose = (): void => this.#finish(gone())
}

/** A Node request as a source. */
export class NodeSource implements Source {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly params: Source["params"]
  readonly url: string
  #reader: BodyReader | undefined = undefined
  #headers: Headers.Headers | undefined = undefined

  readonly #run: (effect: Effect.Effect<void>) => void

  /** `run` starts the effects of `atEnd`. */
  constructor(
    request: IncomingMessage,
    response: ServerResponse,
    url: string,
    params: Source["params"],
    run: (effect: Effect.Effect<void>) => void
  ) {
    this.request = request
    this.response = response
    this.url = url
    this.params = params
    this.#run = run
  }
  get method(): string {
    return this.request.method!
  }
  get headers(): Headers.Headers {
    if (this.#headers !== undefined) return this.#headers
    // all request headers are strings; Node has a list only for `set-cookie`, which requests do not use
    const headers = this.request.headers as Headers.Headers
    const target = this.request.url!
    // RFC 9112, 3.2.2: the authority of an absolute target replaces the host header
    const host = target.startsWith("/") ? undefined : absoluteOf(target)?.host
    return this.#headers = host === undefined ? headers : { ...headers, host }
  }
  get address(): string | undefined {
    return this.request.socket.remoteAddress
  }
  get scheme(): string {
    return "encrypted" in this.request.socket ? "https" : "http"
  }
  atEnd(effect: Effect.Effect<void>): void {
    const { response } = this
    if (response.destroyed || response.writableFinished) return this.#run(effect)
    response.once("close", () => this.#run(effect))
  }
  body(limit: number): Effect.Effect<Uint8Array, BodyTooLarge | BodyUnreadable> {
    return (this.#reader ??= new BodyReader(this.request, this.response)).read(limit)
  }
}

/** The path and the query of a request, which the listener matches against its routes. */
export const targetOf = (request: IncomingMessage): string => pathOf(request.url!)
