/**
 * How a chain ended, in the one word that logs, metrics and spans share.
 */
import { Cause, type Exit } from "effect"
import type { Envelope } from "../message/Message.ts"
import * as Outcome from "../message/Outcome.ts"

/**
 * The word.
 *
 * - `done`: it succeeded
 * - `failed`: it failed, or a middleware gave the message up as a dead letter
 * - `interrupted`: it was stopped, or released; the message is delivered again
 * - `retried`, `rejected`: a middleware answered so, on purpose
 */
export type Status = "done" | "failed" | "interrupted" | "retried" | "rejected"

/** How a chain ended. */
export interface Ending {
  readonly status: Status
  /** What it failed with: an error, a defect, or a dead letter without a reason; undefined unless `failed` or `rejected`. */
  readonly error: unknown
}

const done: Ending = { status: "done", error: undefined }
const interrupted: Ending = { status: "interrupted", error: undefined }
const retried: Ending = { status: "retried", error: undefined }

const ofOutcome = (outcome: Outcome.Outcome): Ending => {
  switch (outcome._tag) {
    case "Ack":
      return done
    case "Retry":
      return retried
    case "Release":
      return interrupted
    case "DeadLetter":
      return { status: "failed", error: outcome.error ?? outcome }
    case "Reject":
      return { status: "rejected", error: outcome.error }
  }
}

/** How a chain ended: an answered outcome speaks first, then an error, then an interruption, then a defect. */
export const of = (exit: Exit.Exit<unknown, unknown>): Ending => {
  if (exit._tag === "Success") return Outcome.isOutcome(exit.value) ? ofOutcome(exit.value) : done
  for (const reason of exit.cause.reasons) {
    if (Cause.isFailReason(reason)) return { status: "failed", error: reason.error }
  }
  return Cause.hasInterrupts(exit.cause) ? interrupted : { status: "failed", error: Cause.squash(exit.cause) }
}

/** How a message ended, with the status of its answer where it was a request of a server. */
export interface MessageEnding extends Ending {
  readonly statusCode: number | undefined
}

/** Whether a client's request failed by the status of its answer, which is then its error's type. */
export const isStatus = (kind: Envelope["kind"], statusCode: number | undefined): boolean =>
  kind === "client" && statusCode !== undefined && statusCode >= 400

/**
 * How a message ended. A request of a server ends by the status of its answer: 4xx is `rejected`, since the client is at fault, and
 * 5xx is `failed`, whether the handler failed or answered so.
 */
export const ofMessage = (message: Envelope, exit: Exit.Exit<unknown, unknown>): MessageEnding => {
  const { error, status } = of(exit)
  const statusCode = message.exchange?.statusOf(exit)
  if (statusCode === undefined || message.kind !== "server") return { status, error, statusCode }
  if (statusCode >= 500) return { status: "failed", error: error ?? statusCode, statusCode }
  if (statusCode >= 400) return { status: "rejected", error, statusCode }
  return { status: "done", error: undefined, statusCode }
}
