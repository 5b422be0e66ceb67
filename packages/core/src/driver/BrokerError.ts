/**
 * What can go wrong between a program and its broker: one error, with a reason to act on and a message that says what to do.
 */
import { Data, type Duration } from "effect"
import type { FailureClass } from "../message/Failure.ts"

/**
 * Why a broker failed.
 *
 * - `Unreachable`: no answer at the address; tried again
 * - `Credentials`: user, password or certificate refused
 * - `Permission`: the user may not do this
 * - `NotFound`: the channel does not exist
 * - `Conflict`: it exists, and differs from what was declared
 * - `TooLarge`: the message is larger than the broker takes
 * - `Full`: no room now: a queue, a stream or a quota is full (`throttled`), or the memory or disk of all (`dependency`);
 *   tried again
 * - `Invalid`: an option or a message that the broker can never take
 * - `Unsupported`: a feature that this broker lacks
 * - `Lost`: the connection or the assignment ended in the middle; tried again
 * - `Refused`: a middleware of the broker refused; `failure` is its class
 * - `Unknown`: anything else; `retriable` is the client library's opinion
 */
export type Reason =
  | "Unreachable"
  | "Credentials"
  | "Permission"
  | "NotFound"
  | "Conflict"
  | "TooLarge"
  | "Full"
  | "Invalid"
  | "Unsupported"
  | "Lost"
  | "Refused"
  | "Unknown"

const classOf: Record<Reason, FailureClass> = {
  Unreachable: "dependency",
  Credentials: "permanent",
  Permission: "permanent",
  NotFound: "permanent",
  Conflict: "permanent",
  TooLarge: "permanent",
  Full: "throttled",
  Invalid: "permanent",
  Unsupported: "permanent",
  Lost: "transient",
  Refused: "permanent",
  Unknown: "transient"
}

/** A broker failed; as the error of a message it settles by its class. */
export class BrokerError extends Data.TaggedError("BrokerError")<{
  /** OpenTelemetry's `messaging.system`. */
  readonly system: string
  readonly operation: "connect" | "consume" | "publish" | "settle" | "declare" | "browse" | "check" | "lag"
  readonly reason: Reason
  /** What happened and what to do, with secrets redacted. */
  readonly message: string
  readonly failure: FailureClass
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {
  /** Whether the same call may succeed later. */
  get retriable(): boolean {
    return this.failure === "dependency" || this.failure === "transient" || this.failure === "throttled"
  }
}

/**
 * Makes a broker error; its class follows from the reason unless `failure` says otherwise.
 *
 * @category constructors
 */
export const make = (options: {
  readonly system: string
  readonly operation: BrokerError["operation"]
  readonly reason: Reason
  readonly message: string
  readonly failure?: FailureClass | undefined
  readonly cause?: unknown
}): BrokerError => new BrokerError({ ...options, failure: options.failure ?? classOf[options.reason] })
