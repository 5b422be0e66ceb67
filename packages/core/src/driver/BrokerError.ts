/**
 * The error of every broker operation, with a reason to act on and a message that says how to fix the fault.
 */
import { Data, type Duration } from "effect"
import type { FailureClass } from "../message/Failure.ts"

/**
 * The reason why a broker operation failed.
 *
 * - `Unreachable`: the address does not answer; retriable
 * - `Credentials`: the server refuses user, password or certificate
 * - `Permission`: the user may not do this
 * - `NotFound`: the channel does not exist
 * - `Conflict`: the channel exists, and differs from its declaration
 * - `TooLarge`: the message exceeds the broker's limit
 * - `Full`: the broker has no room now: a queue, a stream or a quota is full (`throttled`), or its memory or disk
 *   (`dependency`); retriable
 * - `Invalid`: an option or a message that the broker can never accept
 * - `Unsupported`: a feature that this broker lacks
 * - `Lost`: the connection or the assignment ended during the operation; retriable
 * - `Refused`: a middleware of the broker refused the publish, or a publish hook failed; `failure` is its class
 * - `Disabled`: the broker is switched off by the program's configuration; `BrokerSwitch.layer`
 * - `Unknown`: any other error; `retriable` is the client library's opinion
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
  | "Disabled"
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
  Disabled: "dependency",
  Unknown: "transient"
}

/** A failure of a broker. As the error of a handler, its class decides how the message is settled. */
export class BrokerError extends Data.TaggedError("BrokerError")<{
  /** OpenTelemetry's `messaging.system`. */
  readonly system: string
  readonly operation: "connect" | "consume" | "publish" | "settle" | "declare" | "browse" | "check" | "lag"
  readonly reason: Reason
  /** The fault and the fix, with secrets redacted. */
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
 * Makes a broker error. The class follows from the reason unless `failure` is given.
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
