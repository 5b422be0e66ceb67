/**
 * The view of a server request for log lines, spans and metrics.
 */
import type { Exchange } from "@millrace/core"
import type { Exit } from "effect"
import type { Request } from "../Request.ts"
import { authorityOf } from "./target.ts"

/** The exchange of a request; every property is read lazily. */
export class RequestExchange implements Exchange {
  readonly #request: Request<unknown>
  constructor(request: Request<unknown>) {
    this.#request = request
  }
  get method(): string {
    return this.#request.method
  }
  get route(): string | undefined {
    return this.#request.books.route
  }
  get target(): string {
    return this.#request.url
  }
  get scheme(): string | undefined {
    return this.#request.source.scheme
  }
  get host(): string | undefined {
    return authorityOf(this.#request.source.headers["host"])?.host
  }
  get port(): number | undefined {
    return authorityOf(this.#request.source.headers["host"])?.port
  }
  get client(): string | undefined {
    return this.#request.source.address
  }
  get userAgent(): string | undefined {
    return this.#request.source.headers["user-agent"]
  }
  readonly statusOf = (exit: Exit.Exit<unknown, unknown>): number | undefined => {
    try {
      return this.#request.books.statusOf?.(this.#request, exit)
    } catch {
      return undefined
    }
  }
}
