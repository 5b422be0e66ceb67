/**
 * What a caller is told of a request that failed: problem details, without what is inside the program.
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

/** The other side could not answer, and says no more than this; or its answer cannot be read. */
export class RemoteError
  extends Data.TaggedError("RemoteError")<Omit<Problem, "error"> & { readonly message: string }>
{
  /** What its status means to a caller that is a message's handler itself. */
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

// its message holds no value of the body and is bounded; whatever else fails keeps its words to itself
const told = (error: unknown): string | undefined =>
  tagOf(error) === "DecodeError" ? messageOf(error) || undefined : undefined

/** What a caller is told of an error that nobody declared. */
export const of = (error: unknown): Problem => {
  const [status, title, detail] = generic[classOf(error) ?? "defect"]
  return { type: "about:blank", title, status, detail: told(error) ?? detail }
}

/** What a caller is told of a declared error. */
export const declared = (error: unknown, encoded: unknown): Problem => ({
  type: `errors/${encodeURIComponent(tagOf(error).toWellFormed())}`,
  title: tagOf(error),
  status: generic[classOf(error) ?? "validation"][0],
  detail: "The request was refused with an error that it declares.",
  error: encoded
})

/** What a caller is told when the message was acknowledged and nothing was answered. */
export const unanswered: Problem = {
  type: "about:blank",
  title: "Not Found",
  status: 404,
  detail: "The request was acknowledged without an answer."
}

/** An answer that is none. */
export const unreadable = (detail: string): RemoteError =>
  new RemoteError({ type: "about:blank", title: "Bad Gateway", status: 502, detail, message: `Bad Gateway: ${detail}` })

/** Reads an error reply; whatever is missing is made up for. */
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
