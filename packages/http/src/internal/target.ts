/**
 * The target of a request (RFC 9112, 3.2): routing and handlers use the same text.
 */

/** The target as a URL if it is in absolute form; otherwise undefined. */
export const absoluteOf = (target: string): URL | undefined =>
  /^https?:\/\//i.test(target) ? URL.parse(target) ?? undefined : undefined

/** Path and query of a target. For the absolute form they come from the parsed URL, without `.` and `..` segments. */
export const pathOf = (target: string): string => {
  if (target.startsWith("/")) return target
  const url = absoluteOf(target)
  return url === undefined ? target : url.pathname + url.search
}

/** The host and the port of a `host` header; undefined if the header is missing or not an authority. */
export const authorityOf = (
  field: string | undefined
): { readonly host: string; readonly port: number | undefined } | undefined => {
  const [, host, port] = /^([\w.-]+|\[[\da-f:.]+\])(?::(\d{1,5}))?$/i.exec(field ?? "") ?? []
  return host === undefined ? undefined : { host, port: port === undefined ? undefined : Number(port) }
}
