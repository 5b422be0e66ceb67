/**
 * Renders a cause whose errors may be any values: bounded, and never throws.
 */
import { Cause } from "effect"
import { bounded } from "./bounded.ts"
import { maximumMessage, messageOf, tagOf } from "./Failure.ts"

/** The most errors shown of one chain of causes. */
const longestChain = 16

/** The longest text of a cause, in characters: 64 KiB. */
const longest = 4 * maximumMessage

const unreadable = Symbol("unreadable")

const read = (error: object, field: "cause" | "message" | "name" | "stack"): unknown => {
  try {
    return (error as Partial<Record<typeof field, unknown>>)[field]
  } catch {
    return unreadable
  }
}

const isLong = (value: unknown): boolean =>
  value === unreadable || (typeof value === "string" && value.length > maximumMessage)

/** Tells whether Effect can print this error as it is: its fields are readable and short, and its chain of causes is short. */
const isPlain = (error: unknown): boolean => {
  let at = error
  for (let depth = 0; depth < longestChain; depth++) {
    if (typeof at !== "object" || at === null) return !isLong(at)
    if (isLong(read(at, "message")) || isLong(read(at, "name")) || isLong(read(at, "stack"))) return false
    at = read(at, "cause")
    if (at === undefined) return true
  }
  return false
}

/** Returns the frames of a stack, without the message before them. */
const framesOf = (stack: string): string => {
  const at = stack.indexOf("\n    at ")
  return at === -1 ? "" : bounded(stack.slice(at, at + 2 * maximumMessage), maximumMessage)
}

/** Makes an equivalent error within the bounds: tag, message, stack, and the beginning of its chain of causes. */
const plain = (error: unknown, depth = 1): Error => {
  const object = typeof error === "object" && error !== null ? error : undefined
  const inner = object === undefined ? undefined : read(object, "cause")
  const message = messageOf(error)
  // the stack of a long message repeats the whole message
  const stack = object === undefined || message.length >= maximumMessage ? undefined : read(object, "stack")
  const shown = inner === undefined || inner === unreadable || depth >= longestChain
    ? new Error(message)
    : new Error(message, { cause: plain(inner, depth + 1) })
  if (object !== undefined) shown.name = tagOf(error)
  shown.stack = `${shown.name}: ${message}${typeof stack === "string" ? framesOf(stack) : ""}`
  return shown
}

const errorOf = (reason: Cause.Reason<unknown>): unknown =>
  Cause.isFailReason(reason) ? reason.error : Cause.isDieReason(reason) ? reason.defect : undefined

/** Tells whether `prettyOf` shows the errors of a cause completely. */
export const isWhole = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.every((reason) => isPlain(errorOf(reason)))

/**
 * Renders a cause as `Cause.pretty` does: each message and stack is cut at 16 KiB, a chain of causes at 16 errors, and
 * unreadable fields are left out. The whole text is cut at 64 KiB. Never throws.
 */
export const prettyOf = (cause: Cause.Cause<unknown>): string => {
  try {
    if (isWhole(cause)) return bounded(Cause.pretty(cause), longest)
  } catch {
    // another field that Effect reads is unreadable
  }
  const reasons = cause.reasons.map((reason) =>
    Cause.isInterruptReason(reason) ? reason : Cause.makeFailReason(plain(errorOf(reason)))
  )
  return bounded(Cause.pretty(Cause.fromReasons(reasons)), longest)
}
