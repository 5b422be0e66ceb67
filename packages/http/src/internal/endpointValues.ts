/**
 * Stores answers of endpoints of `HttpApi` as values: JSON by the endpoint's own schemas, so the endpoint writes a replayed
 * value in the same way as the first time.
 */
import { Effect, Exit, Schema, SchemaParser } from "effect"
import { HttpServerResponse } from "effect/http"
import * as Answer from "./answer.ts"
import type { Valued, Values } from "../Request.ts"

/** The declarations of an endpoint that this module reads. */
export interface Declares {
  readonly success: ReadonlySet<Schema.Top>
  readonly error: ReadonlySet<Schema.Top>
}

interface Member {
  readonly name: string
  readonly status: number
  readonly is: (value: unknown) => boolean
  readonly encode: (value: unknown) => Effect.Effect<unknown, unknown>
  readonly decode: (json: unknown) => Effect.Effect<unknown, unknown>
}

const nothing = new Uint8Array(0)
const text = { encode: new TextEncoder(), decode: new TextDecoder() }

const members = (kind: "error" | "success", schemas: ReadonlySet<Schema.Top>): ReadonlyArray<Member> =>
  Array.from(schemas).flatMap((schema, i): ReadonlyArray<Member> => {
    try {
      // the endpoint's builder already requires the services of its schemas, and most schemas need none
      const json = Schema.toCodecJson(schema) as unknown as Schema.ConstraintCodec<unknown, unknown>
      const status = Schema.resolveAnnotations(schema)?.["httpApiStatus"]
      return [{
        name: `${kind} ${i}`,
        status: typeof status === "number" ? status : kind === "success" ? 200 : 500,
        is: Schema.is(json),
        encode: SchemaParser.encodeUnknownEffect(json),
        decode: SchemaParser.decodeUnknownEffect(json)
      }]
    } catch {
      // a stream, or another schema without a JSON form
      return []
    }
  })

const known = new WeakMap<object, Values>()

const make = ({ error, success }: Declares): Values => {
  const [values, errors] = [members("success", success), members("error", error)]
  const writing = (all: ReadonlyArray<Member>, value: unknown): Effect.Effect<Valued | undefined> => {
    const member = all.find(({ is }) => is(value))
    return member === undefined
      ? Exit.succeed(undefined)
      : Effect.match(member.encode(value), {
        onSuccess: (json) => ({
          status: member.status,
          value: member.name,
          body: json === undefined ? nothing : text.encode.encode(JSON.stringify(json))
        }),
        onFailure: () => undefined
      })
  }
  return {
    statusOf: (exit) => {
      const found = exit._tag === "Failure" ? Answer.errorOf(exit.cause) : undefined
      if (exit._tag === "Success" && HttpServerResponse.isHttpServerResponse(exit.value)) return undefined
      return exit._tag === "Success"
        ? (values.find(({ is }) => is(exit.value)) ?? values[0])?.status
        : errors.find(({ is }) => is(found?.error))?.status
    },
    write: (exit) => {
      if (exit._tag === "Success") {
        return Effect.map(
          writing(values, exit.value),
          (found) => found ?? { status: 200, value: undefined, body: nothing }
        )
      }
      const found = Answer.errorOf(exit.cause)
      return found === undefined ? Exit.succeed(undefined) : writing(errors, found.error)
    },
    read: (value, body) => {
      const member = [...values, ...errors].find(({ name }) => name === value)
      if (member === undefined) return Exit.succeed(undefined)
      return Effect.catchCause(
        Effect.suspend(() => {
          const json: unknown = body.length === 0 ? undefined : JSON.parse(text.decode.decode(body))
          return Effect.map(
            member.decode(json),
            (found): Exit.Exit<unknown, unknown> => value.startsWith("error") ? Exit.fail(found) : Exit.succeed(found)
          )
        }),
        // another version of the endpoint stored the value
        () => Exit.succeed(undefined)
      )
    }
  }
}

/** The codec that stores the values of an endpoint, made once for each endpoint. */
export const of = (endpoint: Declares): Values => {
  let values = known.get(endpoint)
  if (values === undefined) known.set(endpoint, values = make(endpoint))
  return values
}
