/**
 * Classes of failure: the meaning of an error for its message, carried on the error itself.
 *
 * No middleware knows the transport it runs on. A middleware fails with an error that carries a class; one table for each
 * transport maps the class to an outcome (brokers) or a status (HTTP).
 */
import { Duration } from "effect"
import { hasProperty } from "effect/Predicate"
import { bounded } from "./bounded.ts"

/**
 * The meaning of an error for its message.
 *
 * - `transient`: the same message may succeed a moment later
 * - `permanent`: the message will never succeed
 * - `throttled`: the message came too early; `retryAfter` gives the delay
 * - `poison`: the bytes of the message cannot be decoded
 * - `conflict`: another worker has the message, or another version of it
 * - `timeout`: the handling exceeded its time limit
 * - `auth`: the sender is unknown or has no permission
 * - `validation`: the message was decoded, and its content is invalid
 * - `dependency`: a dependency of the handler is down
 * - `defect`: the program has a bug
 */
export type FailureClass =
  | "transient"
  | "permanent"
  | "throttled"
  | "poison"
  | "conflict"
  | "timeout"
  | "auth"
  | "validation"
  | "dependency"
  | "defect"

/** Every class, in the order of the documentation. */
export const classes: ReadonlyArray<FailureClass> = [
  "transient",
  "permanent",
  "throttled",
  "poison",
  "conflict",
  "timeout",
  "auth",
  "validation",
  "dependency",
  "defect"
]

/** The lasting classes: a message that fails with one of these is not retried. */
export const lasting: ReadonlySet<FailureClass> = new Set<FailureClass>([
  "permanent",
  "poison",
  "auth",
  "validation",
  "defect"
])

/** An error that carries its class and, if that applies, the delay before the message is retried. */
export interface Classified {
  readonly failure: FailureClass
  readonly retryAfter?: Duration.Duration | undefined
}

const known: ReadonlySet<unknown> = new Set(classes)

// An error can be any value: a Proxy, an object whose getters throw, a text of 10 MB. Every read goes through here.
const read = (error: unknown, field: "_tag" | "failure" | "message" | "name" | "retryAfter"): unknown => {
  try {
    return hasProperty(error, field) ? error[field] : undefined
  } catch {
    return undefined
  }
}

/** Tells whether an unknown error is an instance of a class. Never throws, unlike `instanceof` on a Proxy. */
export const isInstance = <T>(error: unknown, type: abstract new(...args: never) => T): error is T => {
  try {
    return error instanceof type
  } catch {
    return false
  }
}

/** Tells whether an unknown error carries a class. Never throws. */
export const isClassified = (error: unknown): error is Classified => known.has(read(error, "failure"))

/** Returns the class of an unknown error, or undefined if it carries none. Never throws. */
export const classOf = (error: unknown): FailureClass | undefined => {
  const failure = read(error, "failure")
  return known.has(failure) ? failure as FailureClass : undefined
}

/** Returns the retry delay of a classified error, or undefined if `retryAfter` is not a `Duration`. Never throws. */
export const retryAfterOf = (error: unknown): Duration.Duration | undefined => {
  if (classOf(error) === undefined) return undefined
  const after = read(error, "retryAfter")
  try {
    return Duration.isDuration(after) ? after : undefined
  } catch {
    return undefined
  }
}

/** The longest tag that `tagOf` returns, in characters. */
export const maximumTag = 256

/** The longest text that `messageOf` returns by default, in characters: 16 KiB. */
export const maximumMessage = 16_384

/**
 * Returns an unknown error's tag: its `_tag`, else an `Error`'s `name`, else its type. 256 characters at most. Never throws.
 *
 * **Example** (an error that cannot be read)
 *
 * ```ts
 * import { Failure } from "@millrace/core"
 *
 * const odd = new Proxy(new Error("x"), {
 *   get: () => {
 *     throw new Error("unreadable")
 *   }
 * })
 * console.log(Failure.tagOf(odd), Failure.tagOf({ _tag: "SoldOut" })) // => Error SoldOut
 * ```
 */
export const tagOf = (error: unknown): string => {
  const tag = read(error, "_tag")
  if (typeof tag === "string") return bounded(tag, maximumTag)
  if (!isInstance(error, Error)) return typeof error
  const name = read(error, "name")
  return typeof name === "string" && name !== "" ? bounded(name, maximumTag) : "Error"
}

/**
 * Returns the message of an unknown error: its `message`, a text itself, or a number, boolean, bigint or symbol as text; else
 * the empty text. At most `most` characters. Never throws.
 */
export const messageOf = (error: unknown, most: number = maximumMessage): string => {
  if (error === null || error === undefined) return ""
  if (typeof error === "string") return bounded(error, most)
  if (typeof error !== "object" && typeof error !== "function") return bounded(String(error), most)
  const message = read(error, "message")
  return typeof message === "string" ? bounded(message, most) : ""
}
