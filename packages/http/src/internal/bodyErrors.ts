/**
 * Errors of reading a body.
 */
import { Data } from "effect"
import type { Field } from "./problemFields.ts"

/** The body is longer than the route takes; it was not read to its end. Class `validation`, answered with 413. */
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
 * - `timeout` (408): the client took longer than the route waits
 * - `consumed` (500): code outside of the route has read the body and did not keep it
 */
export class BodyUnreadable extends Data.TaggedError("BodyUnreadable")<{
  readonly message: string
  /** Default: `incomplete`. */
  readonly reason?: "incomplete" | "timeout" | "consumed" | undefined
  readonly cause?: unknown
}> {
  readonly failure = "transient" as const
}

/** The bytes of the body are no JSON, or no UTF-8. Class `poison`, answered with 400; the message says where. */
export class BodyMalformed extends Data.TaggedError("BodyMalformed")<{
  readonly message: string
  /** Where reading stopped, in characters from 0, or undefined where that is not known. */
  readonly position: number | undefined
}> {
  readonly failure = "poison" as const
}

/** The body was read, and its content is wrong. Class `validation`, answered with 422 and one field for each place. */
export class BodyInvalid extends Data.TaggedError("BodyInvalid")<{
  readonly fields: ReadonlyArray<Field>
}> {
  readonly failure = "validation" as const
  override get message(): string {
    const [first] = this.fields
    return first === undefined ? "The body is invalid" : `The body is invalid: ${first.detail} at ${first.pointer}`
  }
}

/** The body is of another media type than the route takes. Class `validation`, answered with 415 and `accept`. */
export class MediaTypeUnsupported extends Data.TaggedError("MediaTypeUnsupported")<{
  readonly accepts: ReadonlyArray<string>
}> {
  readonly failure = "validation" as const
  override get message(): string {
    return `The body must be ${this.accepts.join(" or ")}`
  }
}

/** The body is compressed, and the route takes no such coding. Class `validation`, answered with 415 and `accept-encoding`. */
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
