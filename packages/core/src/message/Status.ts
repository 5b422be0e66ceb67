/**
 * How far a piece of work is, as those are told who asked for it: a state machine as data, and the reply that carries a state.
 */
import { Data, Result, Schema } from "effect"

/**
 * Which state follows which.
 *
 * - `received`: it was accepted, and nobody has begun
 * - `processing`: somebody is at it
 * - `retrying`: an attempt failed, and another one follows
 * - `completed`: all of it was done
 * - `partial`: some of it was done, and no more will be
 * - `failed`: nothing was done, and nothing will be
 * - `cancelled`: it was taken back before its end
 */
export const transitions = {
  received: ["processing", "failed", "cancelled"],
  processing: ["completed", "partial", "failed", "retrying", "cancelled"],
  retrying: ["processing", "failed", "cancelled"],
  completed: [],
  partial: [],
  failed: [],
  cancelled: []
} as const

/** A state. */
export type Status = keyof typeof transitions

type Table = { readonly [S in Status]: ReadonlyArray<Status> }
const table: Table = transitions

/** Every state, in the order of the documentation. */
export const states: ReadonlyArray<Status> = [
  "received",
  "processing",
  "retrying",
  "completed",
  "partial",
  "failed",
  "cancelled"
]

/** Whether nothing follows: final states are final. */
export const isFinal = (status: Status): boolean => table[status].length === 0

const after = (status: Status): ReadonlySet<Status> => {
  const seen = new Set<Status>(table[status])
  // a set that grows while it is gone through is gone through to its end
  for (const each of seen) table[each].forEach((next) => seen.add(next))
  return seen
}

/** What may have happened between two replies, where those between were lost or are late. */
const reachable = new Map(states.map((status) => [status, after(status)]))

/** A state does not follow another. Class `permanent`: the same reply would be refused again. */
export class IllegalTransition extends Data.TaggedError("IllegalTransition")<{
  readonly from: Status
  readonly to: Status
}> {
  readonly failure = "permanent" as const
  override get message(): string {
    const { from, to } = this
    const next = table[from]
    return next.length === 0
      ? `The status cannot go from ${from} to ${to}: ${from} is final`
      : `The status cannot go from ${from} to ${to}: after ${from} comes ${next.join(", ")}`
  }
}

/**
 * The next state, or the refusal that names both.
 *
 * **Example** (a step, and one that is none)
 *
 * ```ts
 * import { Result } from "effect"
 * import { Status } from "@millrace/core"
 *
 * console.log(Result.getOrThrow(Status.transition("received", "processing"))) // => processing
 * const refused = Status.transition("completed", "cancelled")
 * if (Result.isFailure(refused)) console.log(refused.failure.message)
 * // => The status cannot go from completed to cancelled: completed is final
 * ```
 */
export const transition = (from: Status, to: Status): Result.Result<Status, IllegalTransition> =>
  table[from].includes(to) ? Result.succeed(to) : Result.fail(new IllegalTransition({ from, to }))

/** A state, and how many steps led to it. */
export interface Standing {
  readonly status: Status
  readonly sequence: number
}

/** Where all work begins. */
export const initial: Standing = { status: "received", sequence: 0 }

/** The next standing: one step further, or the refusal. */
export const advance = (standing: Standing, to: Status): Result.Result<Standing, IllegalTransition> =>
  Result.map(transition(standing.status, to), (status) => ({ status, sequence: standing.sequence + 1 }))

/**
 * Where work stands after a reply: whoever works counts its steps, and so whoever listens can take its replies in any order,
 * and more than once.
 *
 * A reply whose `sequence` is not above the standing's is late or a copy, and changes nothing: the same standing is answered.
 * The next one must be a legal step. Of one that is further ahead, those between are late or lost, so a way to it must exist.
 * Whatever follows a final state is refused.
 *
 * **Example** (the replies of one order, in disorder)
 *
 * ```ts
 * import { Result } from "effect"
 * import { Status } from "@millrace/core"
 *
 * let standing = Status.initial
 * for (const [sequence, status] of [[2, "retrying"], [1, "processing"], [4, "completed"], [3, "processing"]] as const) {
 *   standing = Result.getOrThrow(Status.apply(standing, { sequence, status }))
 *   console.log(standing.sequence, standing.status)
 * }
 * // => 2 retrying
 * //    2 retrying
 * //    4 completed
 * //    4 completed
 * ```
 */
export const apply = (standing: Standing, reply: Standing): Result.Result<Standing, IllegalTransition> => {
  const { sequence, status } = reply
  if (sequence <= standing.sequence) return Result.succeed(standing)
  const legal = sequence === standing.sequence + 1
    ? table[standing.status].includes(status)
    : reachable.get(standing.status)!.has(status)
  return legal
    ? Result.succeed({ status, sequence })
    : Result.fail(new IllegalTransition({ from: standing.status, to: status }))
}

/**
 * A reply: what it is about, its state, its place among the replies (an integer from 0, one more with each), and why, where
 * there is something to say (at most 500 characters; it is shown to whoever asked).
 *
 * **Example** (a channel of replies, in an envelope with their correlation id)
 *
 * ```ts
 * import { Channel, Parcel, Status } from "@millrace/core"
 *
 * const Replies = Channel.make("orders.replies", {
 *   payload: Parcel.make(Status.Reply, { data: "required" }),
 *   key: ({ data }) => data.id
 * })
 * ```
 */
export const Reply = Schema.Struct({
  id: Schema.NonEmptyString.check(Schema.isMaxLength(255)),
  status: Schema.Literals(states),
  sequence: Schema.Natural,
  reason: Schema.optionalKey(Schema.String.check(Schema.isMaxLength(500)))
})

/** A reply. */
export type Reply = typeof Reply.Type
