/**
 * Answers of the endpoints: JSON that no cache keeps, and the errors of wrong requests.
 */
import { Data } from "effect"
import { HttpServerResponse } from "effect/http"

/** The request is wrong; answered with 400 and the sentence. */
export class BadRequest extends Data.TaggedError("BadRequest")<{ readonly message: string }> {
  readonly failure = "validation" as const
}

/** There is nothing of this name; answered with 404. */
export class NotFound extends Data.TaggedError("NotFound")<{ readonly message: string }> {
  readonly failure = "permanent" as const
}

/** There are too many open streams; answered with 503. */
export class TooManyStreams extends Data.TaggedError("TooManyStreams")<{ readonly message: string }> {
  readonly failure = "throttled" as const
}

/** The status of each error. */
export const errors = {
  BadRequest: { status: 400, detail: "message" },
  NotFound: { status: 404, detail: "message" },
  TooManyStreams: { status: 503, detail: "message" }
} as const

/** The headers of each answer with data: kept by no cache, shown in no frame, and never read as another type. */
export const headers = {
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer"
} as const

/** Answers text that is JSON. */
export const json = (text: string): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.text(text, { contentType: "application/json", headers })
