/**
 * Reads bytes as JSON: checks the depth and the number of values before parsing, and the schema after.
 */
import { Failure, Headers, OptionCheck, type PayloadCodec } from "@millrace/core"
import { Cause, Effect, Exit, Schema, type SchemaIssue, SchemaParser } from "effect"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"
import type { Request } from "../Request.ts"
import { BodyInvalid, BodyMalformed } from "./bodyErrors.ts"
import { firstError } from "./jsonPlace.ts"
import { fieldsOfIssue } from "./problemFields.ts"

/** Limits of JSON beside its size. */
export interface JsonLimits {
  /** The deepest nesting of arrays and objects, an integer from 1. Default: 100. */
  readonly depth?: number | undefined
  /** The most members and elements in total, an integer from 1. Default: 100,000. */
  readonly values?: number | undefined
}

/** The default limits. */
export const jsonLimits = { depth: 100, values: 100_000 } as const

const utf8 = new TextDecoder("utf-8", { fatal: true })

const malformed = (text: string | undefined): BodyMalformed => {
  if (text === undefined) return new BodyMalformed({ message: "The body is not UTF-8", position: undefined })
  if (text.trim() === "") return new BodyMalformed({ message: "The body is empty, and JSON is expected", position: 0 })
  // the JavaScript engine's own message quotes the body
  const position = firstError(text) ?? 0
  const before = text.slice(0, position)
  const line = before.split("\n").length
  const column = position - before.lastIndexOf("\n")
  return new BodyMalformed({ message: `The body is not JSON: line ${line}, column ${column}`, position })
}

const tooMuch = (detail: string) => Exit.fail(new BodyInvalid({ fields: [{ pointer: "#", detail }] }))

/** The exceeded limit, or undefined: counts opening brackets and commas outside of strings, in one pass. */
const excess = (body: Uint8Array, depth: number, values: number): "depth" | "values" | undefined => {
  // so few bytes can exceed neither limit
  if (body.length <= depth && body.length <= values) return undefined
  let open = 0
  let count = 0
  let inside = false
  for (let i = 0; i < body.length; i++) {
    const code = body[i]!
    if (inside) {
      if (code === 92) i += 1
      else if (code === 34) inside = false
    } else if (code === 34) inside = true
    else if (code === 123 || code === 91) {
      open += 1
      count += 1
      if (open > depth) return "depth"
    } else if (code === 125 || code === 93) open -= 1
    else if (code === 44) count += 1
    if (count > values) return "values"
  }
  return undefined
}

/** Parses JSON within limits. */
export const jsonParser = (
  limits: JsonLimits
): (body: Uint8Array) => Exit.Exit<unknown, BodyMalformed | BodyInvalid> => {
  const check = OptionCheck.make("Body")
  const depth = check.count("depth", limits.depth ?? jsonLimits.depth)
  const values = check.count("values", limits.values ?? jsonLimits.values)
  const beyond = {
    depth: tooMuch(`Expected at most ${depth} levels of arrays and objects`),
    values: tooMuch(`Expected at most ${values} members and elements`)
  }
  return (body) => {
    const found = excess(body, depth, values)
    if (found !== undefined) return beyond[found]
    let text: string | undefined
    try {
      text = utf8.decode(body)
      return Exit.succeed(JSON.parse(text))
    } catch {
      return Exit.fail(malformed(text))
    }
  }
}

/** Reads bytes by a codec other than JSON. */
export const valueOf = <R>(
  codec: PayloadCodec.PayloadCodec<R>,
  channel: string,
  { headers, payload }: Request<Uint8Array>
): Effect.Effect<unknown, BodyMalformed | PayloadCodec.PayloadError, R> =>
  Effect.catchEager(
    codec.decode(payload, {
      system: "http",
      channel,
      key: undefined,
      keyBytes: undefined,
      headers,
      fields: Headers.toFields(headers),
      attempt: 1,
      timestamp: undefined
    }),
    (error): Exit.Exit<never, BodyMalformed | PayloadCodec.PayloadError> => {
      if (error.failure !== "poison") return Exit.fail(error)
      const message = `The body (${payload.length} bytes) cannot be read as ${codec.contentType ?? codec.name}`
      return Exit.fail(new BodyMalformed({ message, position: undefined }))
    }
  )

const invalid = (issue: SchemaIssue.Issue, value: unknown): BodyInvalid =>
  new BodyInvalid({ fields: fieldsOfIssue(issue, { value }) })

const tooDeep = tooMuch("Expected fewer levels of arrays and objects")

/** Fails with `BodyInvalid` if a recursive schema overflows the call stack, because the client's value is too deep. */
export const withinStack = <A, E>(decode: () => Effect.Effect<A, E>): Effect.Effect<A, E | BodyInvalid> => {
  const isOverflow = (defect: unknown) => Failure.isInstance(defect, RangeError) && /call stack/i.test(defect.message)
  try {
    const found = decode()
    if (!Exit.isExit(found)) return found
    if (
      found._tag === "Success" ||
      !found.cause.reasons.some((each) => Cause.isDieReason(each) && isOverflow(each.defect))
    ) return found
    return tooDeep
  } catch (defect) {
    if (isOverflow(defect)) return tooDeep
    throw defect
  }
}

/** Checks a parsed JSON value by a schema. */
export const checker = <P>(
  schema: Schema.ConstraintCodec<P, unknown>,
  values: PayloadCodec.PayloadCodec["values"] = "json"
) => {
  // the constraint is a view of a whole schema, and no other code makes one
  const json = values === "json" ? Schema.toCodecJson(schema) : schema as Schema.Codec<P, unknown>
  SchemaJITCompiler.enable(json.ast)
  const fast = SchemaParser.decodeUnknownEffect(json)
  const whole = SchemaParser.decodeUnknownEffect(json, { errors: "all" })
  // collect all errors only after the fast check has failed
  return (value: unknown): Effect.Effect<P, BodyInvalid> =>
    withinStack(() =>
      Effect.catchEager(fast(value), () => Effect.mapErrorEager(whole(value), (issue) => invalid(issue, value)))
    )
}
