/**
 * Names: checks which channels are valid subjects, names the stream and the consumer of a channel and a group, and reduces
 * patterns to NATS wildcards.
 *
 * Subjects: https://docs.nats.io/nats-concepts/subjects; names of streams and consumers:
 * https://docs.nats.io/running-a-nats-service/nats_admin/jetstream_admin/naming
 */
import type { Address } from "@millrace/core"

/** The reason why a channel cannot be a subject, or undefined if it can. */
export const refuse = (channel: string): string | undefined => {
  if (channel === "") return "A message names no subject."
  // these characters end a word of the protocol
  // oxlint-disable-next-line no-control-regex
  if (/[\s\u0000-\u001f\u007f]/.test(channel)) {
    return `NATS takes no subject ${JSON.stringify(channel)}: leave out white space.`
  }
  if (!channel.isWellFormed()) {
    return `NATS takes no subject ${JSON.stringify(channel)}: half of a surrogate pair stands in it.`
  }
  if (channel.startsWith("$")) {
    return `The subject ${channel} is NATS's own: let names begin with another character than $.`
  }
  for (const token of channel.split(".")) {
    if (token === "") return `NATS takes no subject ${channel}: put something before, after and between its dots.`
    if (token === "*" || token === ">") {
      return `NATS reads ${token} in ${channel} as a wildcard: name a channel, or use an address with {parameters}.`
    }
  }
  return undefined
}

const plain = /[^A-Za-z0-9_-]/gu

const escaped = (character: string): string =>
  Array.from(new TextEncoder().encode(character), (byte) => `=${byte.toString(16).toUpperCase().padStart(2, "0")}`)
    .join("")

/**
 * Text as a NATS name: a dot becomes `~`, and any character except letters, digits, `_` and `-` the hexadecimal of its
 * bytes. Different texts get different names.
 */
export const nameOf = (text: string): string => text.replace(plain, (each) => each === "." ? "~" : escaped(each))

/** Text as a key of a bucket, which must not contain `~`. */
export const keyOf = (text: string): string => text.replace(plain, escaped)

/** The name of the stream that is made for a channel. */
export const streamOf = (channel: string): string => nameOf(channel)

/** The name of a group's durable consumer; `filter` is set if the consumer reads only a part of its stream. */
export const durableOf = (group: string, filter: string | undefined): string =>
  filter === undefined ? nameOf(group) : `${nameOf(group)}@${nameOf(filter)}`

const one = "\u0000"
const rest = "\u0001"

/**
 * The narrowest subject with wildcards that covers a pattern. NATS wildcards match whole tokens between dots only, so `{id}`
 * of `devices/{id}` turns the whole token into `*`; received messages are matched against the pattern again.
 */
export const filterOf = ({ parts }: Address.Pattern): string => {
  const marked = parts.map((part) => typeof part === "string" ? part : part.reach === "rest" ? rest : one).join("")
  const tokens: Array<string> = []
  for (const token of marked.split(".")) {
    if (token.includes(rest)) return [...tokens, ">"].join(".")
    tokens.push(token.includes(one) ? "*" : token)
  }
  return tokens.join(".")
}

/** The subject that two subjects with wildcards both cover, or undefined if they do not overlap. */
export const both = (left: string, right: string): string | undefined => {
  const a = left.split(".")
  const b = right.split(".")
  const tokens: Array<string> = []
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const [x, y] = [a[i], b[i]]
    if (x === ">" && y !== undefined) return [...tokens, ...b.slice(i)].join(".")
    if (y === ">" && x !== undefined) return [...tokens, ...a.slice(i)].join(".")
    if (x === undefined || y === undefined) return undefined
    if (x !== y && x !== "*" && y !== "*") return undefined
    tokens.push(x === "*" ? y : x)
  }
  return tokens.join(".")
}
