/**
 * Schemas, compiled once to plain functions: the only place that knows Effect's unstable compiler.
 *
 * The compiler writes JavaScript with `new Function`. Where that is forbidden (a content security policy, edge runtimes) it
 * leaves the schema interpreted: slower, with the same values and the same issues.
 */
import { type Effect, Schema, type SchemaAST, type SchemaIssue, SchemaParser } from "effect"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"
import { bounded as cut } from "../message/bounded.ts"
import { issueText, type Refused } from "../message/issueText.ts"
import { namesOf } from "../message/namesOf.ts"

/** From what a codec read to a payload: an Exit, unless the schema itself suspends. */
export const decoder = <P>(
  schema: Schema.ConstraintCodec<P, unknown>
): (value: unknown) => Effect.Effect<P, SchemaIssue.Issue> => {
  const json = Schema.toCodecJson(schema)
  SchemaJITCompiler.enable(json.ast)
  return SchemaParser.decodeUnknownEffect(json)
}

/** From a payload to what a codec writes: an Exit, unless the schema itself suspends. */
export const encoder = <P>(
  schema: Schema.ConstraintCodec<P, unknown>
): (payload: P) => Effect.Effect<unknown, SchemaIssue.Issue> => {
  const flipped = Schema.flip(Schema.toCodecJson(schema))
  SchemaJITCompiler.enable(flipped.ast)
  return SchemaParser.decodeUnknownEffect(flipped)
}

/** The longest text of an issue, in characters: keys of the body can be part of a path. */
export const maximumText = 512

/** At most `length` characters of a text. */
export const bounded = (text: string, length: number = maximumText): string => cut(text, length)

const step = (key: PropertyKey, names: ReadonlySet<PropertyKey>): string =>
  typeof key === "number"
    ? `[${key}]`
    : !names.has(key)
    // a key that the sender chose is data
    ? "[*]"
    : /^[A-Za-z_$][\w$]*$/.test(String(key))
    ? `.${String(key)}`
    : `[${JSON.stringify(String(key))}]`

/**
 * Where an issue is (`lines[0].sku`, empty at the root, `[*]` for a key that the schema does not name) and what it says; values of
 * the body are in neither.
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
