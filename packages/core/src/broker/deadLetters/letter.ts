/**
 * Composes dead letters: the message as it was published, with headers for its error, and smaller forms of the same dead
 * letter for a broker that refuses the whole one.
 */
import { Cause, Result } from "effect"
import * as Base64 from "effect/encoding/Base64"
import * as Base64Url from "effect/encoding/Base64Url"
import { prettyOf } from "../../message/causeText.ts"
import * as Failure from "../../message/Failure.ts"
import * as Headers from "../../message/Headers.ts"
import { type Delivery, type Message, Outgoing } from "../../message/Message.ts"
import { readable } from "../../message/readable.ts"
import * as Redaction from "../../telemetry/Redaction.ts"
import { sha256 } from "../../message/sha256.ts"

/** Names of the headers that a dead letter adds; each value is text. */
export const names = {
  channel: "dead-letter-channel",
  partition: "dead-letter-partition",
  position: "dead-letter-position",
  timestamp: "dead-letter-timestamp",
  group: "dead-letter-group",
  handler: "dead-letter-handler",
  attempts: "dead-letter-attempts",
  errorType: "dead-letter-error-type",
  errorMessage: "dead-letter-error-message",
  at: "dead-letter-at",
  passes: "dead-letter-passes",
  /** The original headers as base64url of JSON, if the broker refused them as they were. */
  headers: "dead-letter-headers",
  /** The parts left out because the broker refused them: `headers`, or `headers,body`. */
  omitted: "dead-letter-omitted",
  /** The digest of an omitted body, as RFC 9530 writes it: `sha-256=:…:`. */
  digest: "dead-letter-body-digest",
  /** The length in bytes of an omitted body. */
  length: "dead-letter-body-length"
} as const

export const replayed = "dead-letter-replayed"

/** The header of a replayed message that identifies the replay and its dead letter. */
export const replayId = "dead-letter-replay-id"

const own: ReadonlySet<string> = new Set([...Object.values(names), replayed, replayId])

/** The longest error message that a dead letter keeps, in characters. */
export const maximumMessage = 1024

const maximumText = 256

const suffix = ".dead-letters"

/** Returns the default dead letter channel of a channel: `NAME.dead-letters`. */
export const channelOf = (channel: string): string => `${channel}${suffix}`

/**
 * The forms of a dead letter, each smaller than the one before.
 *
 * - `whole`: body, key and native headers as they were
 * - `encoded`: the original headers in one header of base64url
 * - `bare`: without the original headers and without the error's message
 * - `digest`: like `bare`, with a digest in place of the body, and a key of at most 256 bytes
 */
export const forms = ["whole", "encoded", "bare", "digest"] as const

/** One of `forms`. */
export type Form = (typeof forms)[number]

/** The parts of a dead letter. */
export interface Options {
  readonly delivery: Delivery
  readonly error: unknown
  readonly channel: string
  /** Unix time in milliseconds. */
  readonly at: number
  /** The redaction of the error's message. Default: secrets of the usual names that the message itself holds. */
  readonly redaction?: Redaction.Redaction | undefined
  /** Default: `whole`. */
  readonly form?: Form | undefined
}

const usual = Redaction.make()

const cut = (text: string, length: number): string => text.length > length ? `${text.slice(0, length - 1)}…` : text

// line breaks, other control characters and halves of surrogate pairs: some broker refuses each of them
const unprintable = /[\p{Cc}\p{Zl}\p{Zp}\p{Cs}]+/gu

/** Makes one printable line that any broker accepts as a header's value. */
const line = (text: unknown, length: number): string =>
  cut((typeof text === "string" ? cut(text, length * 2) : typeof text).replace(unprintable, " "), length)

/** Returns the text of an error, with its secrets redacted. */
const messageOf = (error: unknown, delivery: Delivery, redaction: Redaction.Redaction): string => {
  const text = Cause.isCause(error) ? prettyOf(error) : Failure.messageOf(error)
  return line(Redaction.hide(redaction, delivery, text === "" ? Failure.tagOf(error) : text), maximumMessage)
}

/** Returns how often a message has been a dead letter before; an invalid count, as any publisher may write it, is 0. */
const passesOf = (text: string | undefined): number => {
  const value = Number(text ?? "")
  return Number.isSafeInteger(value) && value > 0 ? value : 0
}

/**
 * Composes the dead letter of a delivery: its bytes, key and native headers unchanged (form `whole`), and the headers of
 * `names`. Total: a getter that throws leaves its part out.
 *
 * A message of a `NAME.dead-letters` channel keeps its first origin; the error is replaced and `passes` counts on, so headers
 * do not grow from pass to pass. On any other channel a publisher may have written these headers, and only `passes` is read
 * from them: a replay goes to the channel that the message was read from.
 */
export const toOutgoing = (options: Options): Outgoing<Uint8Array> => {
  const { delivery, error, form = "whole" } = options
  const isSmall = form === "bare" || form === "digest"
  const before = readable(() => delivery.ownHeaders, Headers.empty)
  const isLetter = delivery.channel.endsWith(suffix)
  const origin = isLetter ? before : Headers.empty
  const added: Record<string, string> = Object.create(null)
  added[names.channel] = origin[names.channel] ?? delivery.channel
  added[names.partition] = origin[names.partition] ?? String(delivery.partition)
  added[names.position] = origin[names.position] ?? String(delivery.position)
  const timestamp = origin[names.timestamp] ?? readable(() => delivery.timestamp?.toString(), undefined)
  if (timestamp !== undefined) added[names.timestamp] = timestamp
  added[names.group] = line(delivery.origin.group, maximumText)
  added[names.handler] = line(delivery.origin.handler, maximumText)
  added[names.attempts] = String(delivery.attempt)
  const type = line(Failure.tagOf(error), maximumText)
  added[names.errorType] = type
  const { redaction = usual } = options
  if (!isSmall) added[names.errorMessage] = readable(() => messageOf(error, delivery, redaction), type)
  added[names.at] = String(options.at)
  added[names.passes] = String(passesOf(before[names.passes]) + 1)
  const fields = readable(() => isLetter ? originalFields(delivery) : ownFields(delivery), [])
  if (form === "encoded") added[names.headers] = encodeFields(fields)
  if (isSmall) added[names.omitted] = form === "digest" ? "headers,body" : "headers"
  if (form === "digest") {
    added[names.digest] = `sha-256=:${Base64.encode(sha256(delivery.raw))}:`
    added[names.length] = String(delivery.raw.length)
  }
  const keyBytes = readable(() => delivery.keyBytes, undefined)
  const isKeyLeftOut = form === "digest" && keyBytes !== undefined && keyBytes.length > maximumText
  return new Outgoing(
    options.channel,
    form === "digest" ? new Uint8Array(0) : delivery.raw,
    isKeyLeftOut ? undefined : readable(() => delivery.key, undefined),
    added,
    {
      keyBytes: isKeyLeftOut ? undefined : keyBytes,
      fields: form === "whole" ? fields : [],
      tombstone: form !== "digest" && delivery.tombstone
    }
  )
}

/**
 * Returns the channel that a message was first read from. Its header counts in a `NAME.dead-letters` channel only: a publisher
 * may have written it in any other.
 */
export const firstChannel = ({ channel, headers }: Pick<Message<unknown>, "channel" | "headers">): string =>
  channel.endsWith(suffix) ? headers[names.channel] ?? channel : channel

/** Returns the native fields of a message, without those that the library adds to dead letters. */
const ownFields = (delivery: Delivery): ReadonlyArray<Headers.Field> =>
  delivery.fields.filter(([name]) => !own.has(name.toLowerCase()))

/** Returns the native fields that the message of a dead letter had. */
export const originalFields = (letter: Delivery): ReadonlyArray<Headers.Field> => {
  const encoded = letter.headers[names.headers]
  return encoded === undefined ? ownFields(letter) : ownFields(letter).concat(decodeFields(encoded))
}

const encodeFields = (fields: ReadonlyArray<Headers.Field>): string =>
  Base64Url.encode(
    JSON.stringify(fields.map(([name, value]) => [name, value === null ? null : Base64.encode(value)]))
  )

/** Decodes native fields; empty if `encodeFields` did not write the text. */
const decodeFields = (text: string): ReadonlyArray<Headers.Field> =>
  readable(() => {
    const parsed: unknown = JSON.parse(Result.getOrThrow(Base64Url.decodeString(text)))
    return Array.isArray(parsed) ? parsed.flatMap(fieldOf) : []
  }, [])

const fieldOf = (pair: unknown): ReadonlyArray<Headers.Field> => {
  if (!Array.isArray(pair) || typeof pair[0] !== "string") return []
  const [name, value] = pair
  return [[name, typeof value === "string" ? Result.getOrThrow(Base64.decode(value)) : null]]
}
