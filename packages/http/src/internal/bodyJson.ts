/**
 * Bytes as JSON: its depth and the number of its values are bounded before it is parsed, and its schema is checked after.
 */
import { type Channel, Failure, OptionCheck } from "@millrace/core"
import { Cause, Effect, Exit, Schema, type SchemaIssue, SchemaParser } from "effect"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"
import { BodyInvalid, BodyMalformed } from "./bodyErrors.ts"
import { firstError } from "./jsonPlace.ts"
import { fieldsOfIssue } from "./problemFields.ts"

/** Limits of JSON beside its size. */
export interface JsonLimits {
  /** How deep arrays and objects may be nested, an integer from 1. Default: 100. */
  readonly depth?: number | undefined
  /** How many members and elements there may be in all, an integer from 1. Default: 100,000. */
  readonly values?: number | undefined
}

/** The limits that hold where none are given. */
export const jsonLimits = { depth: 100, values: 100_000 } as const

const utf8 = new TextDecoder("utf-8", { fatal: true })

const malformed = (text: string | undefined): BodyMalformed => {
  if (text === undefined) return new BodyMalformed({ message: "The body is not UTF-8", position: undefined })
  if (text.trim() === "") return new BodyMalformed({ message: "The body is empty, and JSON is expected", position: 0 })
  // the engine's own message quotes the body
  const position = firstError(text) ?? 0
  const before = text.slice(0, position)
  const line = before.split("\n").length
  const column = position - before.lastIndexOf("\n")
  return new BodyMalformed({ message: `The body is not JSON: line ${line}, column ${column}`, position })
}

const tooMuch = (detail: string) => Exit.fail(new BodyInvalid({ fields: [{ pointer: "#", detail }] }))

/** Whether bytes that may be JSON keep within the limits: brackets and commas outside of strings are counted, in one pass. */
const excess = (body: Uint8Array, depth: number, values: number): "depth" | "values" | undefined => {
  // so few bytes can hold neither
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

/** Reads bytes by a codec that is not JSON's. */
export const valueOf = (codec: Channel.Codec) => (body: Uint8Array): Exit.Exit<unknown, BodyMalformed> => {
  try {
    return Exit.succeed(codec.decode(body))
  } catch {
    const message = `The body (${body.length} bytes) cannot be read as ${codec.contentType}`
    return Exit.fail(new BodyMalformed({ message, position: undefined }))
  }
}

const invalid = (issue: SchemaIssue.Issue, value: unknown): BodyInvalid =>
  new BodyInvalid({ fields: fieldsOfIssue(issue, { value }) })

const tooDeep = tooMuch("Expected fewer levels of arrays and objects")

/** A recursive schema needs stack for each level of the value: one that is too deep for it is the client's mistake. */
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

/** Checks a value that was read from JSON by a schema. */
export const checker = <P>(schema: Schema.ConstraintCodec<P, unknown>) => {
  const json = Schema.toCodecJson(schema)
  SchemaJITCompiler.enable(json.ast)
  const fast = SchemaParser.decodeUnknownEffect(json)
  const whole = SchemaParser.decodeUnknownEffect(json, { errors: "all" })
  // all that is wrong is only looked for once something is
  return (value: unknown): Effect.Effect<P, BodyInvalid> =>
    withinStack(() =>
      Effect.catchEager(fast(value), () => Effect.mapErrorEager(whole(value), (issue) => invalid(issue, value)))
    )
}
