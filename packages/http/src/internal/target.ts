/**
 * The target of a request (RFC 9112, 3.2): what routes are found by, and what a handler is shown, are the same text.
 */

/** The target as a URL, where it is in absolute form; undefined otherwise. */
export const absoluteOf = (target: string): URL | undefined =>
  /^https?:\/\//i.test(target) ? URL.parse(target) ?? undefined : undefined

/** Path and query of a target. Of the absolute form they are those of the parsed URL, without `.` and `..`. */
export const pathOf = (target: string): string => {
  if (target.startsWith("/")) return target
  const url = absoluteOf(target)
  return url === undefined ? target : url.pathname + url.search
}

/** The host and the port of a `host` field or of a URL; undefined where the field is missing or is no authority. */
export const authorityOf = (
  field: string | undefined
): { readonly host: string; readonly port: number | undefined } | undefined => {
  const [, host, port] = /^([\w.-]+|\[[\da-f:.]+\])(?::(\d{1,5}))?$/i.exec(field ?? "") ?? []
  return host === undefined ? undefined : { host, port: port === undefined ? undefined : Number(port) }
}
