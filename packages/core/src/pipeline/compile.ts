/**
 * Schemas, compiled once to plain functions: the only module that uses Effect's unstable compiler.
 *
 * The compiler writes JavaScript with `new Function`. Where that is forbidden (a content security policy, edge runtimes) the
 * schema stays interpreted: slower, with the same values and the same issues.
 */
import { type Effect, Schema, type SchemaAST, type SchemaIssue, SchemaParser } from "effect"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"
import { bounded as cut } from "../message/bounded.ts"
import { issueText, type Refused } from "../message/issueText.ts"
import { namesOf } from "../message/namesOf.ts"

/** The values between schema and codec: what JSON is made of, or what the schema itself encodes to. */
export type Values = "json" | "native"

const formOf = <P>(schema: Schema.ConstraintCodec<P, unknown>, values: Values): Schema.Codec<P, unknown> =>
  // the constraint is a view of a whole schema, and no other code makes one
  values === "json" ? Schema.toCodecJson(schema) : schema as Schema.Codec<P, unknown>

/** Makes the function from a codec's raw value to a payload. Its result is an Exit, unless the schema itself suspends. */
export const decoder = <P>(
  schema: Schema.ConstraintCodec<P, unknown>,
  values: Values = "json"
): (value: unknown) => Effect.Effect<P, SchemaIssue.Issue> => {
  const own = formOf(schema, values)
  SchemaJITCompiler.enable(own.ast)
  return SchemaParser.decodeUnknownEffect(own)
}

/** Makes the function from a payload to a codec's raw value. Its result is an Exit, unless the schema itself suspends. */
export const encoder = <P>(
  schema: Schema.ConstraintCodec<P, unknown>,
  values: Values = "json"
): (payload: P) => Effect.Effect<unknown, SchemaIssue.Issue> => {
  const flipped = Schema.flip(formOf(schema, values))
  SchemaJITCompiler.enable(flipped.ast)
  return SchemaParser.decodeUnknownEffect(flipped)
}

/** The longest text of an issue, in characters: a path may contain keys of the body. */
export const maximumText = 512

/** Cuts a text to at most `length` characters. */
export const bounded = (text: string, length: number = maximumText): string => cut(text, length)

const step = (key: PropertyKey, names: ReadonlySet<PropertyKey>): string =>
  typeof key === "number"
    ? `[${key}]`
    : !names.has(key)
    // a key chosen by the sender is data
    ? "[*]"
    : /^[A-Za-z_$][\w$]*$/.test(String(key))
    ? `.${String(key)}`
    : `[${JSON.stringify(String(key))}]`

/**
 * Returns the path of an issue (`lines[0].sku`, empty at the root, `[*]` for a key that the schema does not name) and its
 * message; neither contains values of the body.
 */
export const explain = (
  issue: SchemaIssue.Issue,
  schema: { readonly ast: SchemaAST.AST },
  refused?: Refused
): { readonly path: string; readonly message: string } => {
  const [first] = issueText(issue, refused)
  const names = namesOf(schema.ast)
  const path = (first?.path ?? []).map((key) => step(key, names)).join("")
  return {
    path: bounded(path.startsWith(".") ? path.slice(1) : path, 256),
    message: bounded(first?.message ?? "Invalid")
  }
}
