/**
 * Addresses of channels: a name, or a pattern of names with parameters, as AsyncAPI writes them.
 */
import { RegExp as Expression } from "effect"

/** A parameter: one segment of any value, or all remaining segments. */
export interface Parameter {
  readonly name: string
  readonly reach: "segment" | "rest"
}

/** A part of an address: literal text, or a parameter. */
export type Part = string | Parameter

/** The names of an address's parameters, read from its literal: `"region"` of `orders.{region}.created`. */
export type Names<Text extends string> = Text extends `${string}{${infer Inside}}${infer Rest}`
  ? (Inside extends `+${infer Name}` ? Name : Inside) | Names<Rest>
  : never

/** A value for each parameter. */
export type Parameters<Name extends string> = { readonly [Each in Name]: string }

/** A pattern of channel names. */
export interface Pattern {
  /** The address as written: `orders.{region}.created`. */
  readonly address: string
  readonly parts: ReadonlyArray<Part>
  /** Returns the parameters of a channel that matches, or undefined. */
  readonly match: (channel: string) => Readonly<Record<string, string>> | undefined
}

/** An address that is not a valid pattern; the message gives the reason. */
export class AddressError extends RangeError {
  override readonly name = "AddressError"
}

const refuse = (address: string, why: string): never => {
  throw new AddressError(`Channel: ${address} is no pattern: ${why}`)
}

const separators = "./:"

const isEdge = (address: string, at: number): boolean =>
  at < 0 || at >= address.length || separators.includes(address[at]!)

/** Splits an address into parts; `{` and `}` only mark parameters. */
const parse = (address: string): ReadonlyArray<Part> => {
  const parts: Array<Part> = []
  const names = new Set<string>()
  let at = 0
  while (at < address.length) {
    const open = address.indexOf("{", at)
    const text = address.slice(at, open < 0 ? undefined : open)
    if (text.includes("}")) refuse(address, "it closes a parameter that it does not open")
    if (text !== "") parts.push(text)
    if (open < 0) break
    const close = address.indexOf("}", open)
    if (close < 0) refuse(address, "it opens a parameter that it does not close")
    const [, plus, name = ""] = /^(\+?)([A-Za-z_][\w-]*)$/.exec(address.slice(open + 1, close)) ??
      refuse(address, `{${address.slice(open + 1, close)}} is no parameter: write {name} or, at the end, {+name}`)
    if (names.has(name)) refuse(address, `it has the parameter ${name} twice`)
    names.add(name)
    if (!isEdge(address, open - 1) || !isEdge(address, close + 1)) {
      refuse(address, `{${name}} must be a whole segment between separators (. / :)`)
    }
    if (plus === "+" && close !== address.length - 1) refuse(address, `{+${name}} must be its end`)
    parts.push({ name, reach: plus === "+" ? "rest" : "segment" })
    at = close + 1
  }
  return parts
}

/**
 * Parses an address: returns a pattern if it has parameters, undefined if it is a plain name.
 *
 * `{name}` matches one segment, i.e. one or more characters other than `.`, `/` and `:`; `{+name}`, at the end only, matches
 * the whole remainder. Source: channel address expressions of AsyncAPI 3.0.0, and RFC 6570 for `+`.
 *
 * **Example** (one parameter)
 *
 * ```ts
 * import { Address } from "@millrace/core"
 *
 * const pattern = Address.pattern("orders.{region}.created")
 * console.log(pattern?.match("orders.eu.created")?.["region"], pattern?.match("orders.created")) // => eu undefined
 * ```
 *
 * @throws AddressError when braces are unbalanced, a parameter is not a whole segment, or a name occurs twice
 * @category constructors
 */
export const pattern = (address: string): Pattern | undefined => {
  const parts = parse(address)
  if (parts.every((part) => typeof part === "string")) return undefined
  const expression = new RegExp(
    `^${
      parts.map((part) =>
        typeof part === "string" ? Expression.escape(part) : part.reach === "rest" ? "([^]+)" : `([^${separators}]+)`
      ).join("")
    }$`
  )
  const parameters = parts.filter((part) => typeof part !== "string")
  return {
    address,
    parts,
    match: (channel) => {
      const found = expression.exec(channel)
      if (found === null) return undefined
      const values: Record<string, string> = Object.create(null)
      for (let i = 0; i < parameters.length; i++) values[parameters[i]!.name] = found[i + 1]!
      return values
    }
  }
}

/**
 * Writes the address in a broker's syntax: `one` for a parameter of one segment, `rest` for a parameter that takes the
 * remainder, and text through `literal`.
 */
export const render = (
  { parts }: Pattern,
  words: { readonly one: string; readonly rest: string; readonly literal?: ((text: string) => string) | undefined }
): string =>
  parts.map((part) =>
    typeof part === "string" ? words.literal?.(part) ?? part : part.reach === "rest" ? words.rest : words.one
  ).join("")

/**
 * Fills the parameters of a pattern and returns the channel name: the inverse of `match`.
 *
 * A value is one segment, i.e. one or more characters other than `.`, `/`, `:`, `{` and `}`; a value of `{+name}` is one or
 * more characters other than `{` and `}`.
 *
 * **Example** (there and back)
 *
 * ```ts
 * import { Address } from "@millrace/core"
 *
 * const pattern = Address.pattern("orders.{region}.created")!
 * console.log(Address.fill(pattern, { region: "eu" })) // => orders.eu.created
 * ```
 *
 * @throws AddressError when a value is missing or does not fit its parameter
 */
export const fill = ({ address, parts }: Pattern, values: Readonly<Record<string, string | undefined>>): string => {
  let channel = ""
  for (const part of parts) {
    if (typeof part === "string") {
      channel += part
      continue
    }
    const value = values[part.name]
    if (value === undefined || value === "" || (part.reach === "segment" ? /[./:{}]/ : /[{}]/).test(value)) {
      throw new AddressError(
        `Channel: ${part.name} of ${address} must be ${
          part.reach === "rest" ? "at least one character, and no { or }" : "one segment, without . / : { or }"
        }, got ${value === undefined ? "nothing" : JSON.stringify(value.slice(0, 64))}`
      )
    }
    channel += value
  }
  return channel
}
