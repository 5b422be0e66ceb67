/**
 * Progress of a piece of work, as reported to its requester: a state machine as data, and the reply that carries a state.
 */
import { Data, Result, Schema } from "effect"

/**
 * The successors of each state.
 *
 * - `received`: the work was accepted and has not started
 * - `processing`: a worker is processing it
 * - `retrying`: an attempt failed, and another one follows
 * - `completed`: all of the work was done
 * - `partial`: some of the work was done, and no more will be
 * - `failed`: nothing was done, and nothing will be
 * - `cancelled`: the work was cancelled before its end
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

/** Tells whether a state is final, that is, has no successor. */
export const isFinal = (status: Status): boolean => table[status].length === 0

const after = (status: Status): ReadonlySet<Status> => {
  const seen = new Set<Status>(table[status])
  // iterating a Set visits elements added during the iteration
  for (const each of seen) table[each].forEach((next) => seen.add(next))
  return seen
}

/** The states reachable from each state, for replies whose predecessors are lost or late. */
const reachable = new Map(states.map((status) => [status, after(status)]))

/** One state cannot follow another. Class `permanent`: the same reply would be refused again. */
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
 * Returns the next state, or an error that names both states.
 *
 * **Example** (a legal step, and an illegal one)
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

/** A state, and the number of steps that led to it. */
export interface Standing {
  readonly status: Status
  readonly sequence: number
}

/** The state in which all work begins. */
export const initial: Standing = { status: "received", sequence: 0 }

/** Returns the next standing, one step further, or an error. */
export const advance = (standing: Standing, to: Status): Result.Result<Standing, IllegalTransition> =>
  Result.map(transition(standing.status, to), (status) => ({ status, sequence: standing.sequence + 1 }))

/**
 * Applies a reply to a standing. The worker numbers its steps, so the listener can take its replies in any order, and
 * repeatedly.
 *
 * A reply whose `sequence` is not above the standing's is late or a copy: the standing is returned unchanged. The reply with the
 * next number must be a legal step. For a later number, the replies between are lost or late, so the state must be reachable.
 * Any successor of a final state is refused.
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
 * A reply: the id of the work, its state, its sequence number among the replies (an integer from 0, one more with each), and an
 * optional reason (at most 500 characters; the requester sees it).
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
