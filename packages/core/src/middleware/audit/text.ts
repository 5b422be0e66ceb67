/**
 * Texts of bodies and errors for audit rows, with secrets replaced.
 */
import { Cause, type Exit } from "effect"
import { messageOf } from "../../message/Failure.ts"
import type { Envelope } from "../../message/Message.ts"
import type { Outcome } from "../../message/Outcome.ts"
import * as Redaction from "../../telemetry/Redaction.ts"
import { bodyOf } from "../../telemetry/secretsIn.ts"

// the most characters of an error message
const maximumMessage = 1024

// characters after the kept ones, so that a secret that reaches past the end is still found
const margin = 256

const decoder = new TextDecoder()

const cut = (text: string, limit: number): string => {
  if (text.length <= limit) return text
  const last = text.charCodeAt(limit - 1)
  return text.slice(0, last >= 0xd800 && last < 0xdc00 ? limit - 1 : limit)
}

// control characters, which text never holds: fields of a body in a binary encoding cannot be redacted
// oxlint-disable-next-line no-control-regex
const binary = /[\0-\x08\x0e-\x1f]/

const json = (value: unknown): string | undefined => {
  try {
    return JSON.stringify(value)
  } catch {
    return undefined
  }
}

// a UTF-16 unit takes at most 3 bytes of UTF-8, so a character that is cut at the end lies beyond `limit`
const textOf = (body: unknown, limit: number): string | undefined =>
  body instanceof Uint8Array ? decoder.decode(body.subarray(0, limit * 4)) : json(body)

/** Returns the first `characters` of a message's body, or undefined if it has no body. */
export const bodyText = (redaction: Redaction.Redaction, message: Envelope, characters: number): string | undefined => {
  const body = bodyOf(message)
  const text = textOf(body, characters + margin)
  if (text === undefined) return undefined
  const head = cut(text, characters + margin)
  if (body instanceof Uint8Array && binary.test(head)) return `<${body.length} bytes>`
  return cut(redaction.text(head), characters)
}

/** The error that ended a chain, or undefined if none did. */
export const errorOf = (exit: Exit.Exit<unknown, unknown>, outcome: Outcome | undefined): unknown => {
  if (exit._tag === "Success") return outcome !== undefined && "error" in outcome ? outcome.error : undefined
  const failed = exit.cause.reasons.find(Cause.isFailReason)
  if (failed !== undefined) return failed.error
  return Cause.hasInterruptsOnly(exit.cause) ? interrupted : Cause.squash(exit.cause)
}

const interrupted = { _tag: "Interrupted" }

/** The message of an error, without the secrets in its message's headers and body. */
export const errorText = (redaction: Redaction.Redaction, error: unknown, message: Envelope): string | undefined => {
  const text = messageOf(error)
  if (text === "") return undefined
  return cut(Redaction.hide(redaction, message, text), maximumMessage)
}
