/** The JSON format of events (CloudEvents 1.0.2, JSON event format): one body with attributes and data. */
import { CloudEventsError, type Flat, flat, isName } from "./attributes.ts"

/** The data of an event: a value of JSON, bytes, or none. */
export type Data =
  | { readonly _tag: "json"; readonly value: unknown }
  | { readonly _tag: "bytes"; readonly bytes: Uint8Array }
  | { readonly _tag: "none" }

/** Returns the media type of a content type, in lower case and without parameters. */
export const mediaOf = (contentType: string): string => {
  const end = contentType.indexOf(";")
  return (end < 0 ? contentType : contentType.slice(0, end)).trim().toLowerCase()
}

/** Whether a media type is JSON: its subtype is `json`, or ends with `+json`. */
export const isJson = (media: string): boolean => /^[^/]+\/(?:json|[^/]*\+json)$/.test(media)

const strict = new TextDecoder("utf-8", { fatal: true })
const encoder = new TextEncoder()

const base64 = /^[A-Za-z0-9+/]*={0,2}$/

const refuse = (sentence: string): never => {
  throw new CloudEventsError(sentence)
}

const bytesOf = (text: unknown): Uint8Array => {
  if (typeof text !== "string" || text.length % 4 !== 0 || !base64.test(text)) {
    return refuse("The member data_base64 is not Base64")
  }
  return Buffer.from(text, "base64")
}

/** The canonical text of an attribute (section 3.1); undefined for null, which stands for a missing one. */
const textOf = (name: string, value: unknown): string | undefined => {
  if (typeof value === "string") return value
  if (value === null) return undefined
  if (typeof value === "boolean") return String(value)
  return typeof value === "number" && Number.isInteger(value) && Math.abs(value) <= 0x8000_0000
    ? String(value)
    : refuse(`The attribute ${name} is no text, boolean or integer of 32 bits`)
}

/** More members than attributes, since those with null and unknown names are passed over. */
const mostMembers = 200

/** An event as its body says. */
export interface Parsed {
  readonly all: Flat
  readonly data: Data
}

/**
 * Reads a body.
 *
 * @throws CloudEventsError when it is no event
 */
export const parse = (bytes: Uint8Array): Parsed => {
  let body: unknown
  try {
    body = JSON.parse(strict.decode(bytes))
  } catch {
    // the message of the parser quotes the body
    return refuse("The body is not JSON")
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) return refuse("The body is not a JSON object")
  // an object of JSON has no other members
  const members = body as { readonly [name: string]: unknown }
  const names = Object.keys(members)
  if (names.length > mostMembers) refuse(`An event has at most ${mostMembers} members`)
  const all = flat()
  for (const name of names) {
    if (!isName(name)) continue
    const text = textOf(name, members[name])
    if (text !== undefined) all[name] = text
  }
  const hasData = Object.hasOwn(members, "data")
  const encoded = members["data_base64"]
  if (encoded !== undefined && encoded !== null) {
    if (hasData) refuse("The body has both data and data_base64")
    return { all, data: { _tag: "bytes", bytes: bytesOf(encoded) } }
  }
  if (!hasData) return { all, data: { _tag: "none" } }
  const { data } = members
  // without a type, the data is JSON (3.1.2)
  const type = (all["datacontenttype"] ??= "application/json")
  if (isJson(mediaOf(type))) return { all, data: { _tag: "json", value: data } }
  if (typeof data !== "string") return refuse("The data is no text, and its type is not JSON")
  return { all, data: { _tag: "bytes", bytes: encoder.encode(data) } }
}

const joined = (parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const bytes = new Uint8Array(parts.reduce((sum, each) => sum + each.length, 0))
  let at = 0
  for (const each of parts) {
    bytes.set(each, at)
    at += each.length
  }
  return bytes
}

const end = encoder.encode("}")

/**
 * Writes a body: JSON as it is, texts as texts, everything else as Base64.
 *
 * @throws TypeError when the data has a media type of text and is no UTF-8
 */
export const write = (all: Flat, data: Uint8Array | undefined): Uint8Array => {
  const head = JSON.stringify(all).slice(0, -1)
  if (data === undefined) return encoder.encode(`${head}}`)
  const type = all["datacontenttype"]
  const media = type === undefined ? "" : mediaOf(type)
  if (isJson(media)) return joined([encoder.encode(`${head},"data":`), data, end])
  if (media.startsWith("text/")) return encoder.encode(`${head},"data":${JSON.stringify(strict.decode(data))}}`)
  const { buffer, byteLength, byteOffset } = data
  return encoder.encode(`${head},"data_base64":"${Buffer.from(buffer, byteOffset, byteLength).toString("base64")}"}`)
}
