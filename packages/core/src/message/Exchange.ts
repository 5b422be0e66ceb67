/**
 * A request of HTTP as log lines, spans and metrics show it.
 */
import type { Exit } from "effect"

/** A request of HTTP as log lines, spans and metrics show it, by OpenTelemetry's words. */
export interface Exchange {
  /** As the client wrote it. */
  readonly method: string
  /**
   * The template of the route, e.g. `/orders/:id`; undefined where no route was found. Of a client's request the name that the program
   * gave it, undefined where it gave none.
   */
  readonly route: string | undefined
  /** Path and query as they came. */
  readonly target: string
  /** The whole URL of a client's request, as far as it may be shown; undefined on servers. */
  readonly url?: string | undefined
  /** `http` or `https`; undefined where the server does not say. */
  readonly scheme: string | undefined
  /** The host that the client asked for, without its port. */
  readonly host: string | undefined
  /** The port that the client asked for; undefined where it is the scheme's own. */
  readonly port: number | undefined
  /** The address of the peer. */
  readonly client: string | undefined
  readonly userAgent: string | undefined
  /** The status that the end of a chain is answered with; undefined where the client gets no answer. Never throws. */
  readonly statusOf: (exit: Exit.Exit<unknown, unknown>) => number | undefined
}

const methods: ReadonlySet<string> = new Set([
  "CONNECT",
  "DELETE",
  "GET",
  "HEAD",
  "OPTIONS",
  "PATCH",
  "POST",
  "PUT",
  "QUERY",
  "TRACE"
])

/** A method as a label: those that are known, and `_OTHER` for all others, which clients may invent. */
export const methodOf = ({ method }: Exchange): string => methods.has(method) ? method : "_OTHER"

/** Path and query of the target, apart. */
export const partsOf = ({ target }: Exchange): { readonly path: string; readonly query: string | undefined } => {
  const at = target.indexOf("?")
  return at < 0 ? { path: target, query: undefined } : { path: target.slice(0, at), query: target.slice(at + 1) }
}
