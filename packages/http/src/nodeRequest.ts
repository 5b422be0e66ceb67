/**
 * A request of Node's, read without more copies than its body has parts.
 */
import type { Headers } from "@millrace/core"
import { Effect, Exit } from "effect"
import type { IncomingMessage } from "node:http"
import { BodyTooLarge, BodyUnreadable } from "./Body.ts"
import type { Source } from "./Request.ts"

const gone = (cause?: unknown) =>
  new BodyUnreadable({ message: "The body could not be read to its end: the client has gone", cause })

const read = (request: IncomingMessage, limit: number): Effect.Effect<Uint8Array, BodyTooLarge | BodyUnreadable> =>
  Effect.callback((resume) => {
    if (request.readableEnded || request.destroyed) {
      return resume(Exit.fail(
        request.readableEnded ? new BodyUnreadable({ message: "The body was read before" }) : gone()
      ))
    }
    const chunks: Array<Buffer> = []
    let size = 0
    const onData = (chunk: Buffer) => {
      size += chunk.length
      if (size <= limit) return void chunks.push(chunk)
      finish(Exit.fail(new BodyTooLarge({ limit })))
    }
    const onEnd = () => finish(Exit.succeed(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size)))
    const onError = (cause: unknown) => finish(Exit.fail(gone(cause)))
    const onClose = () => finish(Exit.fail(gone()))
    const off = () => {
      request.off("data", onData).off("end", onEnd).off("error", onError).off("close", onClose)
      // whoever answers decides what becomes of the rest
      if (!request.complete) request.pause()
    }
    const finish = (exit: Exit.Exit<Uint8Array, BodyTooLarge | BodyUnreadable>) => {
      off()
      resume(exit)
    }
    request.on("data", onData).on("end", onEnd).on("error", onError).on("close", onClose)
    return Effect.sync(off)
  })

/** Node's request as a source. */
export class NodeSource implements Source {
  readonly request: IncomingMessage
  readonly params: Source["params"]
  constructor(request: IncomingMessage, params: Source["params"]) {
    this.request = request
    this.params = params
  }
  get method(): string {
    return this.request.method!
  }
  get url(): string {
    return this.request.url!
  }
  get headers(): Headers.Headers {
    // `set-cookie`, which Node keeps as a list, is none of a request's; all else is text
    return this.request.headers as Headers.Headers
  }
  get address(): string | undefined {
    return this.request.socket.remoteAddress
  }
  body(limit: number): Effect.Effect<Uint8Array, BodyTooLarge | BodyUnreadable> {
    return read(this.request, limit)
  }
}
