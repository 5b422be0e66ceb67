/**
 * Hides the secrets of a message in texts about it: an error's message or stack may repeat the message's content.
 */
import { Cause } from "effect"
import { bounded } from "../message/bounded.ts"
import { isWhole, prettyOf } from "../message/causeText.ts"
import { messageOf, tagOf } from "../message/Failure.ts"
import { secretNames } from "../message/Headers.ts"
import { type Envelope, Message, Outgoing } from "../message/Message.ts"

/** The replacement of a secret. */
export const placeholder = "<redacted>"

/** A compiled redaction. */
export interface Redaction {
  /** Tells whether a field or header of this name is a secret, in any place. */
  readonly isSecret: (name: string) => boolean
  /** Replaces the secrets of a text. The text may be cut anywhere: the remainder of a cut secret is replaced as well. */
  readonly text: (text: string) => string
  /** Lists the secrets of a text as written, for a search elsewhere; secrets shorter than 3 characters are left out. */
  readonly secrets: (text: string) => ReadonlyArray<string>
}

/** The most of a body that is searched, in bytes or characters: 256 KiB. */
const most = 262_144

const decoder = new TextDecoder()

/** Returns the available body: bytes, or a value that is not encoded yet. */
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

/** Lists the secrets of a message: values of secret headers, and secrets in the first 256 KiB of its body. */
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

/** The most secrets of one message that are searched for in a text: each costs one search. */
const mostSecrets = 1000

/** Replaces each of `secrets` in `text`, the longest first; with more than 1,000 secrets, the whole text is replaced. */
export const without = (text: string, secrets: ReadonlyArray<string>): string => {
  const all = new Set(secrets)
  if (all.size > mostSecrets) return placeholder
  return [...all].sort((a, b) => b.length - a.length)
    .reduce((each, secret) => each.replaceAll(secret, placeholder), text)
}

/** The most characters of a text about a message that are searched and shown: 64 KiB. */
const longest = 65_536

/**
 * Hides the message's secrets, and text that looks like a secret, in a text about the message. Returns at most 64 KiB, since
 * searching a longer text blocks the process.
 */
export const hide = (redaction: Redaction, message: Envelope, text: string): string => {
  const secrets = secretsOf(redaction, message)
  if (text.length <= longest) return without(redaction.text(text), secrets)
  // a secret divided by the cut is not found: drop the end of the searched text, as long as the longest secret
  const reach = secrets.reduce((most, secret) => Math.max(most, secret.length), 0)
  const clean = without(redaction.text(text.slice(0, longest + reach)), secrets)
  return bounded(clean.slice(0, Math.max(0, clean.length - reach)), longest)
}

/** Hides secrets in a cause about a message: a cause without any is unchanged, else one error has its tag and the clean text. */
export const hideCause = <E>(redaction: Redaction, message: Envelope, cause: Cause.Cause<E>): Cause.Cause<unknown> => {
  const text = prettyOf(cause)
  const clean = hide(redaction, message, text)
  // the part that was cut off may hold a secret
  if (clean === text && isWhole(cause)) return cause
  const error = Cause.squash(cause)
  const shown = new Error(hide(redaction, message, messageOf(error)))
  shown.name = tagOf(error)
  shown.stack = clean
  return Cause.fail(shown)
}
