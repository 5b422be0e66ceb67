/**
 * What a header field may hold (RFC 9110, 5.5 and 5.6.2): nothing that could begin another field.
 */
const token = /^[!#$%&'*+.^_`|~\w-]+$/
// oxlint-disable-next-line no-control-regex
const value = /^[\t\x20-\x7e\x80-\xff]*$/

// names repeat from answer to answer; a stream of invented names must not fill the memory
const remembered = 1000
const known = new Set<string>()

const isName = (name: string): boolean => {
  if (known.has(name)) return true
  const holds = token.test(name)
  if (holds && known.size < remembered && name.length <= 64) known.add(name)
  return holds
}

/** The name of the first field that cannot be sent, or undefined where all can. */
export const firstWrong = (headers: { readonly [name: string]: string }): string | undefined => {
  for (const name in headers) {
    if (!isName(name) || !value.test(headers[name]!)) return name
  }
  return undefined
}

/** A name as an error may show it. */
export const shownName = (name: string): string => JSON.stringify(name.slice(0, 64))
