/**
 * The characters allowed in header names and values (RFC 9110, 5.5 and 5.6.2), which prevent header injection.
 */
const token = /^[!#$%&'*+.^_`|~\w-]+$/
// oxlint-disable-next-line no-control-regex
const value = /^[\t\x20-\x7e\x80-\xff]*$/

// caches valid names, which repeat between answers; bounded, so that invented names cannot fill the memory
const remembered = 1000
const known = new Set<string>()

const isName = (name: string): boolean => {
  if (known.has(name)) return true
  const holds = token.test(name)
  if (holds && known.size < remembered && name.length <= 64) known.add(name)
  return holds
}

/** The name of the first header that cannot be sent, or undefined if all can. */
export const firstWrong = (headers: { readonly [name: string]: string }): string | undefined => {
  for (const name in headers) {
    if (!isName(name) || !value.test(headers[name]!)) return name
  }
  return undefined
}

/** A header name, quoted and cut to 64 characters, for error messages. */
export const shownName = (name: string): string => JSON.stringify(name.slice(0, 64))
