/**
 * Texts of results, errors and progress: JSON by their schemas, compiled once.
 */
import { Failure } from "@millrace/core"
import { Data, Effect, Exit, Schema, SchemaParser } from "effect"

/** A value that its schema refuses, or a stored text that it can no longer read. */
export class TaskValueError extends Data.TaggedError("TaskValueError")<{
  readonly task: string
  readonly message: string
  readonly cause: unknown
}> {
  readonly failure = "validation" as const
}

/** Encodes values to JSON texts, and decodes them. */
export interface Codec<A> {
  readonly encode: (value: A) => Effect.Effect<string, TaskValueError>
  readonly decode: (text: string) => Effect.Effect<A, TaskValueError>
}

/** Makes a codec; `part` names the value in errors, which hold no value. */
export const make = <A>(task: string, part: string, schema: Schema.ConstraintCodec<A, unknown>): Codec<A> => {
  const json = Schema.toCodecJson(schema)
  const [write, read] = [
    SchemaParser.decodeUnknownEffect(Schema.flip(json)),
    SchemaParser.decodeUnknownEffect(json)
  ]
  const failed = (verb: string) => (cause: unknown) =>
    new TaskValueError({ task, cause, message: `The ${part} of the task ${task} cannot be ${verb} by its schema.` })
  return {
    encode: (value) =>
      Effect.mapEager(
        Effect.mapErrorEager(write(value), failed("encoded")),
        // a schema of nothing encodes to undefined, which JSON does not have
        (encoded) => JSON.stringify(encoded ?? null)
      ),
    decode: (text) => {
      let value: unknown
      try {
        value = JSON.parse(text)
      } catch (cause) {
        return Exit.fail(failed("read")(Failure.tagOf(cause)))
      }
      return Effect.mapErrorEager(read(value), failed("read"))
    }
  }
}
