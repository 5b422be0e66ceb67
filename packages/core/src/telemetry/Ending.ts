/**
 * The result of a chain, as one status shared by logs, metrics and spans.
 */
import { Cause, type Exit } from "effect"
import type { Envelope } from "../message/Message.ts"
import * as Outcome from "../message/Outcome.ts"

/**
 * The status.
 *
 * - `done`: the chain succeeded
 * - `failed`: the chain failed, or a middleware gave the message up as a dead letter
 * - `interrupted`: the chain was interrupted, or released the message; the message is redelivered
 * - `retried`, `rejected`: a middleware answered with this outcome, on purpose
 */
export type Status = "done" | "failed" | "interrupted" | "retried" | "rejected"

/** The result of a chain. */
export interface Ending {
  readonly status: Status
  /** The failure: an error, a defect, or a dead letter without a reason; undefined unless `failed` or `rejected`. */
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

/** Classifies an exit: an answered outcome takes precedence, then an error, then an interruption, then a defect. */
export const of = (exit: Exit.Exit<unknown, unknown>): Ending => {
  if (exit._tag === "Success") return Outcome.isOutcome(exit.value) ? ofOutcome(exit.value) : done
  for (const reason of exit.cause.reasons) {
    if (Cause.isFailReason(reason)) return { status: "failed", error: reason.error }
  }
  return Cause.hasInterrupts(exit.cause) ? interrupted : { status: "failed", error: Cause.squash(exit.cause) }
}

/** The result of a message, with the response status if it was a request. */
export interface MessageEnding extends Ending {
  readonly statusCode: number | undefined
}

/** Tells whether a client's request failed by its response status, which is then the type of the error. */
export const isStatus = (kind: Envelope["kind"], statusCode: number | undefined): boolean =>
  kind === "client" && statusCode !== undefined && statusCode >= 400

/**
 * Classifies the exit of a message. A server's request is classified by its response status: 4xx is `rejected`, because the
 * client is at fault, and 5xx is `failed`, for a failed handler and for such an answer alike.
 */
export const ofMessage = (message: Envelope, exit: Exit.Exit<unknown, unknown>): MessageEnding => {
  const { error, status } = of(exit)
  const statusCode = message.exchange?.statusOf(exit)
  if (statusCode === undefined || message.kind !== "server") return { status, error, statusCode }
  if (statusCode >= 500) return { status: "failed", error: error ?? statusCode, statusCode }
  if (statusCode >= 400) return { status: "rejected", error, statusCode }
  return { status: "done", error: undefined, statusCode }
}
