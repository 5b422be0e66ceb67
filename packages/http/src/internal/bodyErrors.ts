/**
 * Errors of reading a body.
 */
import { Data } from "effect"
import type { Field } from "./problemFields.ts"

/** The body exceeds the route's limit. Class `validation`, answered with 413. */
export class BodyTooLarge extends Data.TaggedError("BodyTooLarge")<{
  /** In bytes. */
  readonly limit: number
}> {
  readonly failure = "validation" as const
  override get message(): string {
    return `The body is longer than ${this.limit} bytes`
  }
}

/**
 * The body could not be read to its end. Class `transient`.
 *
 * - `incomplete` (400): the client closed the connection before the end
 * - `timeout` (408): the client exceeded the route's timeout
 * - `consumed` (500): code outside of the route has read the body and did not keep the bytes
 */
export class BodyUnreadable extends Data.TaggedError("BodyUnreadable")<{
  readonly message: string
  /** Default: `incomplete`. */
  readonly reason?: "incomplete" | "timeout" | "consumed" | undefined
  readonly cause?: unknown
}> {
  readonly failure = "transient" as const
}

/**
 * The body is not valid UTF-8, JSON or compressed data, or its codec cannot read it. Class `poison`, answered with 400. For
 * JSON, the message has line and column.
 */
export class BodyMalformed extends Data.TaggedError("BodyMalformed")<{
  readonly message: string
  /** The position of the error, in characters from 0; undefined if not known. */
  readonly position: number | undefined
}> {
  readonly failure = "poison" as const
}

/**
 * The body was parsed, but its content is invalid. Class `validation`, answered with 422 and one field for each invalid place.
 */
export class BodyInvalid extends Data.TaggedError("BodyInvalid")<{
  readonly fields: ReadonlyArray<Field>
}> {
  readonly failure = "validation" as const
  override get message(): string {
    const [first] = this.fields
    return first === undefined ? "The body is invalid" : `The body is invalid: ${first.detail} at ${first.pointer}`
  }
}

/** The route does not accept the body's media type. Class `validation`, answered with 415 and `accept`. */
export class MediaTypeUnsupported extends Data.TaggedError("MediaTypeUnsupported")<{
  readonly accepts: ReadonlyArray<string>
}> {
  readonly failure = "validation" as const
  override get message(): string {
    return `The body must be ${this.accepts.join(" or ")}`
  }
}

/** The route does not accept the body's content coding. Class `validation`, answered with 415 and `accept-encoding`. */
export class EncodingUnsupported extends Data.TaggedError("EncodingUnsupported")<{
  readonly accepts: ReadonlyArray<string>
}> {
  readonly failure = "validation" as const
  override get message(): string {
    return this.accepts.length === 0
      ? "The body must be sent without a content coding"
      : `The content coding of the body must be ${this.accepts.join(" or ")}`
  }
}

/** Errors of reading a body as bytes. */
export type BytesError = BodyTooLarge | BodyUnreadable | MediaTypeUnsupported | EncodingUnsupported | BodyMalformed

/** Errors of reading a body as JSON. */
export type JsonError = BytesError | BodyInvalid
