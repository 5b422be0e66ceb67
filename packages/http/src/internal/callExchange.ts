/**
 * The view of a client request for log lines, spans and metrics.
 */
import type { Exchange } from "@millrace/core"
import { Cause, type Exit, Predicate } from "effect"
import { HttpClientResponse } from "effect/http"
import type { Call } from "../Call.ts"
import { type Shown, shownUrl, StatusFailed } from "./failures.ts"

const ports: { readonly [scheme: string]: number | undefined } = { http: 80, https: 443 }

/** The exchange of a request, without the user, query and fragment of its URL. */
export class CallExchange implements Exchange {
  readonly method: string
  readonly route: string | undefined
  readonly url: string
  readonly target: string
  readonly scheme: string | undefined
  readonly host: string | undefined
  readonly port: number | undefined
  readonly client = undefined
  readonly userAgent = undefined

  constructor({ request }: Call, route: string | undefined, shown: Shown) {
    this.method = request.method
    this.route = route
    this.url = shownUrl(request.url, shown)
    const parsed = URL.parse(this.url) ?? undefined
    this.target = parsed?.pathname ?? this.url
    this.scheme = parsed?.protocol.slice(0, -1)
    this.host = parsed?.hostname
    this.port = parsed === undefined ? undefined : parsed.port === "" ? ports[this.scheme!] : Number(parsed.port)
  }

  statusOf(exit: Exit.Exit<unknown, unknown>): number | undefined {
    if (exit._tag === "Success") {
      const { value } = exit
      return Predicate.isObject(value) && HttpClientResponse.TypeId in value &&
          Predicate.hasProperty(value, "status") &&
          typeof value.status === "number"
        ? value.status
        : undefined
    }
    const failed = exit.cause.reasons.find(Cause.isFailReason)?.error
    return failed instanceof StatusFailed ? failed.status : undefined
  }
}
