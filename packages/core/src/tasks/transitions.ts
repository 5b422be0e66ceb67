/**
 * The states of a task as pure functions: a record, an event and the store's time give the next record.
 */
import { type Attempt, type Content, isEnd, mostAttempts, type Problem, type Record, type State } from "./record.ts"

/** The next record, or the answer that nothing changes. */
export interface Next {
  readonly state: State
  readonly content: Content
  /** Whether the unique key is released. */
  readonly releases: boolean
  readonly isDue?: boolean
  readonly tells: boolean
}

/** The way in which an attempt ends. The last three end no task: it runs again. */
export type Ending =
  | { readonly _tag: "Succeeded"; readonly result: string }
  | { readonly _tag: "Failed"; readonly problem: Problem; readonly error?: string | undefined }
  | { readonly _tag: "Cancelled" }
  /** The attempt failed, and the engine runs the task again. */
  | { readonly _tag: "Retry"; readonly problem: Problem }
  /** The attempt was interrupted, as by a drain, and the task goes back to the broker. */
  | { readonly _tag: "Released" }

/** Separates a record into state and content. */
export const contentOf = (
  { createdAt: _created, id: _id, queue: _queue, state: _state, ...content }: Record
): Content => content

const endings = {
  Succeeded: "succeeded",
  Failed: "failed",
  Cancelled: "cancelled",
  Retry: "failed",
  Released: "released"
} as const

/** Ends the attempt that runs, in the list of attempts. */
const endAttempt = (
  attempts: ReadonlyArray<Attempt>,
  endedAt: number,
  ending: NonNullable<Attempt["ending"]>,
  error?: Problem
): ReadonlyArray<Attempt> => {
  const last = attempts.at(-1)
  if (last === undefined || last.endedAt !== undefined) return attempts
  return [...attempts.slice(0, -1), { ...last, endedAt, ending, ...(error === undefined ? {} : { error }) }]
}

const ended = (record: Record, state: State, now: number, more: Partial<Content> = {}): Next => ({
  state,
  content: {
    ...contentOf(record),
    leaseUntil: undefined,
    owner: undefined,
    isCancelling: undefined,
    endedAt: now,
    ...more
  },
  releases: record.uniqueWhile === "running" || record.uniqueWhile === "pending",
  tells: true
})

/** The reason why an attempt does not begin. */
export type Refused =
  | { readonly _tag: "Ended"; readonly state: State }
  /** Another attempt runs, under a lease that ends in `left` milliseconds. */
  | { readonly _tag: "Running"; readonly left: number }
  /** The task has had all its attempts. */
  | { readonly _tag: "Exhausted"; readonly attempts: number }

/** The request of an attempt. */
export interface Begin {
  readonly worker: string
  /** Unique for each attempt. */
  readonly owner: string
  readonly lease: number
  /** The most attempts that may begin. */
  readonly attempts: number
}

/** Begins an attempt: a record to be written, an answer without a write, or both. */
export const begin = (
  record: Record,
  { attempts: most, lease, owner, worker }: Begin,
  now: number
): { readonly next?: Next; readonly refused?: Refused } => {
  const { state } = record
  if (isEnd(state)) return { refused: { _tag: "Ended", state } }
  const isRunning = state === "running"
  if (isRunning) {
    if (record.owner === owner) return {}
    const left = (record.leaseUntil ?? 0) - now
    if (left > 0) return { refused: { _tag: "Running", left } }
    if (record.isCancelling === true) {
      const attempts = endAttempt(record.attempts, now, "lost")
      return { next: ended(record, "cancelled", now, { attempts }), refused: { _tag: "Ended", state: "cancelled" } }
    }
  }
  const before = isRunning ? endAttempt(record.attempts, now, "lost") : record.attempts
  if (record.expires !== undefined && record.token === 0 && now > record.createdAt + record.expires) {
    return { next: ended(record, "expired", now), refused: { _tag: "Ended", state: "expired" } }
  }
  if (record.begun >= most) {
    const problem = {
      tag: "AttemptsExhausted",
      message: `The task has begun ${record.begun} times and never ended: its last worker may have been killed by it.`
    }
    return {
      next: ended(record, "failed", now, { attempts: before, problem }),
      refused: { _tag: "Exhausted", attempts: record.begun }
    }
  }
  const number = (before.at(-1)?.number ?? 0) + 1
  return {
    next: {
      state: "running",
      content: {
        ...contentOf(record),
        token: record.token + 1,
        begun: record.begun + 1,
        owner,
        leaseUntil: now + lease,
        attempts: [...before, { number, worker, startedAt: now, endedAt: undefined }].slice(-mostAttempts)
      },
      releases: record.uniqueWhile === "pending" && record.token === 0,
      tells: false
    }
  }
}

/** Tells whether the attempt of a token runs. */
export const isHeld = (record: Record, token: number): boolean => record.state === "running" && record.token === token

/** Ends an attempt; undefined if its token is no longer the running one. */
export const end = (record: Record, token: number, ending: Ending, now: number): Next | undefined => {
  if (!isHeld(record, token)) return undefined
  const problem = ending._tag === "Failed" || ending._tag === "Retry" ? ending.problem : undefined
  const attempts = endAttempt(record.attempts, now, endings[ending._tag], problem)
  switch (ending._tag) {
    case "Succeeded":
      return ended(record, "succeeded", now, { attempts, result: ending.result, problem: undefined })
    case "Failed":
      return ended(record, "failed", now, { attempts, error: ending.error, problem: ending.problem })
    case "Cancelled":
      return ended(record, "cancelled", now, { attempts })
    default:
      if (record.isCancelling === true) return ended(record, "cancelled", now, { attempts })
      return {
        state: "retrying",
        content: {
          ...contentOf(record),
          attempts,
          leaseUntil: undefined,
          owner: undefined,
          // a drained worker spends no attempt
          begun: ending._tag === "Released" ? record.begun - 1 : record.begun
        },
        releases: false,
        tells: false
      }
  }
}

/** Extends the lease of an attempt, and stores its progress if there is new progress. */
export const extend = (
  record: Record,
  token: number,
  lease: number,
  progress: string | undefined,
  now: number
): Next | undefined =>
  isHeld(record, token)
    ? {
      state: "running",
      content: {
        ...contentOf(record),
        leaseUntil: now + lease,
        ...(progress === undefined ? {} : { progress, progressNumber: (record.progressNumber ?? 0) + 1 })
      },
      releases: false,
      tells: progress !== undefined
    }
    : undefined

/** Cancels a task: at once if no attempt runs, else by a request to its worker. */
export const cancel = (
  record: Record,
  now: number
): { readonly answer: "cancelled" | "requested" | "ended"; readonly next?: Next } => {
  if (isEnd(record.state)) return { answer: record.state === "cancelled" ? "cancelled" : "ended" }
  if (record.state !== "running") return { answer: "cancelled", next: ended(record, "cancelled", now) }
  if (record.isCancelling === true) return { answer: "requested" }
  return {
    answer: "requested",
    next: {
      state: "running",
      content: { ...contentOf(record), isCancelling: true },
      releases: false,
      tells: true
    }
  }
}

/** Starts a failed, cancelled or expired task again; undefined if it cannot be. */
export const restart = (record: Record): Next | undefined => {
  if (!isEnd(record.state) || record.state === "succeeded") return undefined
  const { error: _error, problem: _problem, ...content } = contentOf(record)
  return {
    state: "retrying",
    content: { ...content, expires: undefined, endedAt: undefined, begun: 0 },
    releases: false,
    isDue: true,
    tells: true
  }
}
