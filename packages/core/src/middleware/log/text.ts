/**
 * Texts and bodies from outside for log lines: cut, on one line, and without secrets.
 */
import { hasProperty } from "effect/Predicate"
import * as Outcome from "../../message/Outcome.ts"
import type * as Redaction from "../../telemetry/Redaction.ts"

// control characters, line and paragraph separators, and characters that change the direction of text
// oxlint-disable-next-line no-control-regex
const breaking = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** Escapes characters that could begin another line, or hide one. */
export const escaped = (text: string): string =>
  text.replace(breaking, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`)

/** Puts a text on one line of at most `limit` characters, counted before the escapes. */
export const oneLine = (text: string, limit = 256): string =>
  escaped(text.length > limit ? `${text.slice(0, limit - 1)}…` : text)

// characters after the shown ones, so that a secret that reaches past the end is still found
const margin = 256
const decoder = new TextDecoder()

const sizeOf = (payload: unknown): string =>
  payload instanceof Uint8Array ? `<${payload.length} bytes>` : `<${typeof payload}>`

const textOf = (payload: unknown, limit: number): string => {
  // a UTF-16 unit takes at most 3 bytes of UTF-8, so a character that is cut lies beyond the limit
  if (payload instanceof Uint8Array) return decoder.decode(payload.subarray(0, limit * 4)).slice(0, limit)
  try {
    return (JSON.stringify(payload) ?? "").slice(0, limit)
  } catch {
    return ""
  }
}

/** Returns the first `limit` characters of a JSON body, or the size of any other body. */
export const bodyText = (redaction: Redaction.Redaction, payload: unknown, limit: number): string => {
  const text = textOf(payload, limit + margin)
  return /^\s*[{["]/.test(text) ? oneLine(redaction.text(text), limit) : sizeOf(payload)
}

const responses = ["~effect/http/HttpServerResponse", "~effect/http/HttpClientResponse"]

/** The fields of an answer: the status of a response, and a body that is available. Outcomes are no answers. */
export const answerOf = (
  redaction: Redaction.Redaction,
  value: unknown,
  limit: number
): { readonly statusCode?: number; readonly answer?: string } => {
  if (value === undefined || Outcome.isOutcome(value)) return {}
  if (!responses.some((id) => hasProperty(value, id))) return { answer: bodyText(redaction, value, limit) }
  const statusCode = hasProperty(value, "status") && typeof value.status === "number"
    ? { statusCode: value.status }
    : {}
  // the body of a client's response is a stream that belongs to its reader
  const body = hasProperty(value, responses[0]!) && hasProperty(value, "body") ? value.body : undefined
  return hasProperty(body, "_tag") && body._tag === "Uint8Array" && hasProperty(body, "body")
    ? { ...statusCode, answer: bodyText(redaction, body.body, limit) }
    : statusCode
}
