/**
 * Problem details for the caller of a failed request, without internals of the program.
 */
import { Data } from "effect"
import { hasProperty } from "effect/Predicate"
import { classOf, type FailureClass, messageOf, tagOf } from "../message/Failure.ts"

/** Problem details by RFC 9457; `error` is a declared error, as its schema encodes it. */
export interface Problem {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail: string
  readonly error?: unknown
}

/** The media type of an error reply. */
export const contentType = "application/problem+json"

/** The server could not handle the request, and gives no further detail; or its answer cannot be read. */
export class RemoteError
  extends Data.TaggedError("RemoteError")<Omit<Problem, "error"> & { readonly message: string }>
{
  /** The failure class of the status, for a caller that is itself a message's handler. */
  get failure(): FailureClass {
    const { status } = this
    return status === 429
      ? "throttled"
      : status === 502 || status === 503 || status === 504
      ? "dependency"
      : "permanent"
  }
}

const generic: Record<FailureClass, readonly [status: number, title: string, detail: string]> = {
  transient: [503, "Service Unavailable", "The request could not be handled now."],
  dependency: [503, "Service Unavailable", "Something that the request needs is not available."],
  throttled: [429, "Too Many Requests", "There were too many requests."],
  timeout: [504, "Gateway Timeout", "Handling the request took too long."],
  conflict: [409, "Conflict", "The request is in conflict with another."],
  auth: [403, "Forbidden", "The request is not allowed."],
  validation: [422, "Unprocessable Content", "The request was read, and its content is wrong."],
  poison: [400, "Bad Request", "The request could not be read."],
  permanent: [500, "Internal Server Error", "The request could not be handled."],
  defect: [500, "Internal Server Error", "The request could not be handled."]
}

// a DecodeError's message holds no value of the body and is bounded; messages of other errors are not shown
const told = (error: unknown): string | undefined =>
  tagOf(error) === "DecodeError" ? messageOf(error) || undefined : undefined

/** Makes the problem of an undeclared error. */
export const of = (error: unknown): Problem => {
  const [status, title, detail] = generic[classOf(error) ?? "defect"]
  return { type: "about:blank", title, status, detail: told(error) ?? detail }
}

/** Makes the problem of a declared error. */
export const declared = (error: unknown, encoded: unknown): Problem => ({
  type: `errors/${encodeURIComponent(tagOf(error).toWellFormed())}`,
  title: tagOf(error),
  status: generic[classOf(error) ?? "validation"][0],
  detail: "The request was refused with an error that it declares.",
  error: encoded
})

/** The problem of a request that was acknowledged without an answer. */
export const unanswered: Problem = {
  type: "about:blank",
  title: "Not Found",
  status: 404,
  detail: "The request was acknowledged without an answer."
}

/** Makes the error of a reply that could not be parsed. */
export const unreadable = (detail: string): RemoteError =>
  new RemoteError({ type: "about:blank", title: "Bad Gateway", status: 502, detail, message: `Bad Gateway: ${detail}` })

/** Makes the error of a reply that cannot be parsed now. */
export const unavailable = (detail: string): RemoteError =>
  new RemoteError({
    type: "about:blank",
    title: "Service Unavailable",
    status: 503,
    detail,
    message: `Service Unavailable: ${detail}`
  })

/** Reads an error reply; missing fields get a default. */
export const read = (value: unknown): { readonly error: unknown; readonly remote: RemoteError } => {
  const text = (name: string, otherwise: string): string =>
    hasProperty(value, name) && typeof value[name] === "string" ? value[name] : otherwise
  const title = text("title", "Error")
  const detail = text("detail", "")
  const status = hasProperty(value, "status") && typeof value.status === "number" ? value.status : 500
  return {
    error: hasProperty(value, "error") ? value.error : undefined,
    remote: new RemoteError({
      type: text("type", "about:blank"),
      title,
      status,
      detail,
      message: detail === "" ? title : `${title}: ${detail}`
    })
  }
}
