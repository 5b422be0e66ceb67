/**
 * The secrets of one message, hidden in what is said of it elsewhere: an error's message or stack may repeat what it holds.
 */
import { Cause } from "effect"
import { bounded } from "../message/bounded.ts"
import { isWhole, prettyOf } from "../message/causeText.ts"
import { messageOf, tagOf } from "../message/Failure.ts"
import { secretNames } from "../message/Headers.ts"
import { type Envelope, Message, Outgoing } from "../message/Message.ts"

/** What a secret reads in its place. */
export const placeholder = "<redacted>"

/** A compiled redaction. */
export interface Redaction {
  /** Whether a field or header of this name is a secret, wherever it stands. */
  readonly isSecret: (name: string) => boolean
  /** The text with its secrets replaced. It may end anywhere: what a cut leaves of a secret is replaced as well. */
  readonly text: (text: string) => string
  /** The secrets of a text as they stand in it, to be looked for elsewhere; those shorter than 3 characters are left out. */
  readonly secrets: (text: string) => ReadonlyArray<string>
}

/** What is looked at of a body, in bytes or characters: 256 KiB. */
const most = 262_144

const decoder = new TextDecoder()

/** The body as far as it is at hand: bytes, or a value that is not encoded yet. */
export const bodyOf = (message: Envelope): unknown =>
  message instanceof Message
    ? message.delivery.tombstone ? undefined : message.delivery.payload
    : message instanceof Outgoing
    ? message.native?.tombstone === true ? undefined : message.payload
    : message.body

const textOf = (body: unknown): string | undefined => {
  if (body === undefined) return undefined
  if (body instanceof Uint8Array) return decoder.decode(body.subarray(0, most))
  try {
    return JSON.stringify(body)?.slice(0, most)
  } catch {
    return undefined
  }
}

/** The secrets of a message: values of secret headers, and what a redaction finds in the first 256 KiB of its body. */
const secretsOf = (redaction: Redaction, message: Envelope): ReadonlyArray<string> => {
  const secrets: Array<string> = []
  for (const name in message.headers) {
    const value = message.headers[name]!
    if (!redaction.isSecret(name) && !secretNames.has(name)) continue
    secrets.push(value, ...value.split(/\s+/).filter((part) => part.length >= 8))
  }
  const body = textOf(bodyOf(message))
  if (body !== undefined) secrets.push(...redaction.secrets(body))
  return secrets.filter((secret) => secret !== "")
}

/** The most secrets of one message that a text is searched for: each costs a search. */
const mostSecrets = 1000

/** `text` with each of `secrets` replaced, the longest first; of more than 1,000 secrets, nothing is shown of it. */
export const without = (text: string, secrets: ReadonlyArray<string>): string => {
  const all = new Set(secrets)
  if (all.size > mostSecrets) return placeholder
  return [...all].sort((a, b) => b.length - a.length)
    .reduce((each, secret) => each.replaceAll(secret, placeholder), text)
}

/** The most characters of a text about a message that are searched and shown: 64 KiB. */
const longest = 65_536

/**
 * A text that tells of a message, without the message's secrets and what looks like one; at most 64 KiB of it, since a longer
 * text blocks the process while it is searched.
 */
export const hide = (redaction: Redaction, message: Envelope, text: string): string => {
  const secrets = secretsOf(redaction, message)
  if (text.length <= longest) return without(redaction.text(text), secrets)
  // a secret that the cut divides would not be found: the end of what was searched is dropped, as long as the longest secret
  const reach = secrets.reduce((most, secret) => Math.max(most, secret.length), 0)
  const clean = without(redaction.text(text.slice(0, longest + reach)), secrets)
  return bounded(clean.slice(0, Math.max(0, clean.length - reach)), longest)
}

/** A cause that tells of a message: itself where it repeats no secret, else one error with the same tag and the rest of the text. */
export const hideCause = <E>(redaction: Redaction, message: Envelope, cause: Cause.Cause<E>): Cause.Cause<unknown> => {
  const text = prettyOf(cause)
  const clean = hide(redaction, message, text)
  // what was cut may hold a secret further on
  if (clean === text && isWhole(cause)) return cause
  const error = Cause.squash(cause)
  const shown = new Error(hide(redaction, message, messageOf(error)))
  shown.name = tagOf(error)
  shown.stack = clean
  return Cause.fail(shown)
}
