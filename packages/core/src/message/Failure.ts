/**
 * Classes of failure: what an error means for its message, carried on the error itself.
 *
 * No middleware knows the transport it runs on. It fails with an error that says its class; one table for each transport
 * turns the class into an outcome (brokers) or a status (HTTP).
 */
import { Duration } from "effect"
import { hasProperty } from "effect/Predicate"
import { bounded } from "./bounded.ts"

/**
 * What an error means.
 *
 * - `transient`: the same message may succeed a moment later
 * - `permanent`: it never will
 * - `throttled`: it came too early; `retryAfter` says when to come back
 * - `poison`: its bytes cannot be read
 * - `conflict`: another worker has it, or another version of it
 * - `timeout`: it took longer than it may
 * - `auth`: its sender is unknown or may not do this
 * - `validation`: it was read, and its content is wrong
 * - `dependency`: something the handler needs is down
 * - `defect`: the program is wrong
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

/** The classes that never go away by themselves: a message that failed so is not tried again. */
export const lasting: ReadonlySet<FailureClass> = new Set<FailureClass>([
  "permanent",
  "poison",
  "auth",
  "validation",
  "defect"
])

/** An error that says of which class it is, and, where that applies, when the message may come back. */
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

/** Whether an unknown error is an instance of a class. Never throws, as `instanceof` does for a Proxy. */
export const isInstance = <T>(error: unknown, type: abstract new(...args: never) => T): error is T => {
  try {
    return error instanceof type
  } catch {
    return false
  }
}

/** Whether an unknown error carries a class. Never throws. */
export const isClassified = (error: unknown): error is Classified => known.has(read(error, "failure"))

/** The class of an unknown error, or undefined where it carries none. Never throws. */
export const classOf = (error: unknown): FailureClass | undefined => {
  const failure = read(error, "failure")
  return known.has(failure) ? failure as FailureClass : undefined
}

/** When a classified error lets its message come back, or undefined where it names no `Duration`. Never throws. */
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

/** The longest text that `messageOf` returns where its caller names no limit, in characters: 16 KiB. */
export const maximumMessage = 16_384

/**
 * The tag of an unknown error: its `_tag`, else the `name` of an `Error`, else its type. At most 256 characters. Never throws.
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
 * What an unknown error says: its `message`, a text itself, or a number, boolean, bigint or symbol as text; empty where it says
 * nothing. At most `most` characters. Never throws.
 */
export const messageOf = (error: unknown, most: number = maximumMessage): string => {
  if (error === null || error === undefined) return ""
  if (typeof error === "string") return bounded(error, most)
  if (typeof error !== "object" && typeof error !== "function") return bounded(String(error), most)
  const message = read(error, "message")
  return typeof message === "string" ? bounded(message, most) : ""
}
