/**
 * Maps the end of a chain to the outcome of its message: computed once, outside of all middlewares.
 */
import { Cause, Duration, type Exit } from "effect"
import { type Classified, classOf, type FailureClass, retryAfterOf, tagOf } from "../message/Failure.ts"
import * as Outcome from "../message/Outcome.ts"

/** The outcome for each class of failure; data that a subscription may change. */
export type Table = { readonly [Class in FailureClass]: (error: Classified) => Outcome.Outcome }

const again = (error: Classified) => {
  const after = retryAfterOf(error)
  if (after === undefined) return Outcome.Retry()
  // a `retryAfter` of another service may be in the past, infinite, or NaN: the engine bounds it on both sides
  const millis = Duration.toMillis(after)
  return Outcome.Retry({ after: millis > 0 ? Math.min(millis, Number.MAX_SAFE_INTEGER) : 0 })
}
const dead = (error: Classified) => retryAfterOf(error) === undefined ? Outcome.DeadLetter(error) : again(error)

/**
 * The default table: temporary failures are retried (`transient`, `throttled`, `conflict`, `timeout`, `dependency`),
 * permanent ones are dead-lettered. An error with `retryAfter` is retried, whatever its class.
 */
export const table: Table = {
  transient: again,
  permanent: dead,
  throttled: again,
  poison: dead,
  conflict: again,
  timeout: again,
  auth: dead,
  validation: dead,
  dependency: again,
  defect: dead
}

/** The settlement of an error: an outcome, or a function of the error. */
export type Entry<Error> = Outcome.Outcome | ((error: Error) => Outcome.Outcome)

/** The members of `E` that do not carry a class. */
export type Open<E> = Exclude<E, Classified>

type TagOf<E> = E extends { readonly _tag: infer Tag extends string } ? Tag : never

/** The errors that may have the tag. */
type ByTag<E, Tag> = E extends { readonly _tag: infer Own } ? Tag extends Own ? E : never : never

type Flat<T> = { [K in keyof T]: T[K] } & {}

/** One entry for each error without a class; entries for classified errors are optional and override the table. */
export type Entries<E, Needed extends string = TagOf<Open<E>>> = Flat<
  & { readonly [Tag in Needed]: Entry<ByTag<E, Tag>> }
  & { readonly [Tag in TagOf<Exclude<E, Open<E>>>]?: Entry<ByTag<E, Tag>> }
>

/** Requires `settle`. The compiler prints the tags that need an entry first, however long the types of the errors are. */
export interface NeedsEntries<Tag extends string, E> {
  readonly settle: Entries<E, Tag>
}

/** Requires `settle` if an error needs an entry. An error without a tag can have no entry, and `Named` refuses it. */
export type Settle<E> = [TagOf<Open<E>>] extends [never] ? { readonly settle?: Entries<E> | undefined }
  : NeedsEntries<TagOf<Open<E>>, E>

type Untagged<E> = E extends { readonly _tag: string } ? never : E

/** Refuses errors that no entry could name. */
export type Named<E> = [Untagged<Open<E>>] extends [never] ? unknown
  : { readonly "an error without _tag and without `failure` cannot be settled": Untagged<Open<E>> }

/** Overrides of the default settlement. */
export interface Policy {
  readonly entries: { readonly [tag: string]: Entry<never> | undefined }
  readonly table: Table
}

/**
 * Returns the outcome of a user's function. If it returns no outcome: a dead letter that names `where`; if it throws: a dead
 * letter with the thrown value.
 */
const decided = (where: string, decide: () => unknown, error: unknown): Outcome.Outcome => {
  try {
    const outcome = decide()
    return Outcome.isOutcome(outcome)
      ? outcome
      : Outcome.DeadLetter(new TypeError(`Settlement: ${where} returned no Outcome`, { cause: error }))
  } catch (defect) {
    return Outcome.DeadLetter(defect)
  }
}

// both tables are the user's, and a tag may be any text: `constructor` is an entry only if the user wrote it
const ownOf = <T>(table: { readonly [name: string]: T }, name: string): T | undefined =>
  Object.hasOwn(table, name) ? table[name] : undefined

const ofClass = (policy: Policy, failure: FailureClass, error: unknown): Outcome.Outcome => {
  const row = ownOf(policy.table, failure)
  // an error of this class is Classified
  return row === undefined
    ? Outcome.DeadLetter(error)
    : decided(`the table's ${failure}`, () => row(error as Classified), error)
}

/**
 * Returns the outcome of one error: from the entry of its tag, otherwise from the table by its class, otherwise a dead
 * letter.
 *
 * Never throws: if an entry or a row of the table throws or returns no outcome, the message is a dead letter.
 */
export const ofError = (policy: Policy, error: unknown): Outcome.Outcome => {
  const tag = tagOf(error)
  const entry = ownOf(policy.entries, tag)
  const failure = classOf(error)
  const outcome = entry !== undefined
    // the entry was typed by the tag that found it
    ? decided(`the entry ${tag}`, () => typeof entry === "function" ? entry(error as never) : entry, error)
    : failure !== undefined
    ? ofClass(policy, failure, error)
    : Outcome.DeadLetter(error)
  // dead letters name their reason even where the entry was a plain outcome
  return outcome._tag === "DeadLetter" && outcome.error === undefined ? Outcome.DeadLetter(error) : outcome
}

/**
 * Returns the outcome of a finished chain: an answered outcome holds, any other answer acknowledges; an error is settled by
 * its entry or its class; an interruption releases; a defect is settled as the class `defect`. Never throws.
 */
export const ofExit = (policy: Policy, exit: Exit.Exit<unknown, unknown>): Outcome.Outcome => {
  if (exit._tag === "Success") return Outcome.isOutcome(exit.value) ? exit.value : Outcome.Ack
  const reasons = exit.cause.reasons
  for (let i = 0; i < reasons.length; i++) {
    const reason = reasons[i]!
    if (Cause.isFailReason(reason)) return ofError(policy, reason.error)
  }
  if (Cause.hasInterrupts(exit.cause)) return Outcome.Release
  const defect = Cause.squash(exit.cause)
  const outcome = ofClass(policy, "defect", classOf(defect) === undefined ? { failure: "defect" } : defect)
  return outcome._tag === "DeadLetter" ? Outcome.DeadLetter(defect) : outcome
}
