/**
 * An HTTP request as seen by log lines, spans and metrics.
 */
import type { Exit } from "effect"

/** An HTTP request as seen by log lines, spans and metrics, in OpenTelemetry's terms. */
export interface Exchange {
  /** The method as the client wrote it. */
  readonly method: string
  /**
   * The template of the route, e.g. `/orders/:id`; undefined if no route matched. For a client's request: the name given by the
   * program, undefined if it gave none.
   */
  readonly route: string | undefined
  /** Path and query as received. */
  readonly target: string
  /** The whole URL of a client's request, without its secrets; undefined on servers. */
  readonly url?: string | undefined
  /** `http` or `https`; undefined if the server does not tell. */
  readonly scheme: string | undefined
  /** The host that the client requested, without its port. */
  readonly host: string | undefined
  /** The port that the client requested; undefined if it is the scheme's default. */
  readonly port: number | undefined
  /** The address of the peer. */
  readonly client: string | undefined
  readonly userAgent: string | undefined
  /** Returns the response status for the exit of a chain; undefined if the client gets no response. Never throws. */
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

/** Returns the method as a label: known methods as they are, and `_OTHER` for all others, which clients may invent. */
export const methodOf = ({ method }: Exchange): string => methods.has(method) ? method : "_OTHER"

/** Splits the target into path and query. */
export const partsOf = ({ target }: Exchange): { readonly path: string; readonly query: string | undefined } => {
  const at = target.indexOf("?")
  return at < 0 ? { path: target, query: undefined } : { path: target.slice(0, at), query: target.slice(at + 1) }
}
