/**
 * The payload of an endpoint of `HttpApi`, read within a route's limits and decoded by the endpoint's own schemas.
 */
import { Effect, Exit, Schema, type SchemaIssue, SchemaParser, Stream } from "effect"
import { HttpMethod, Multipart, UrlParams } from "effect/http"
import type { HttpApiEndpoint } from "effect/http-api"
import { BodyInvalid, BodyMalformed, type JsonError } from "./bodyErrors.ts"
import { type JsonLimits, jsonParser, withinStack } from "./bodyJson.ts"
import { reader, type ReaderOptions, typeOf } from "./bodyReader.ts"
import { fieldsOfIssue } from "./problemFields.ts"
import type { Request } from "../Request.ts"

type Read = (bytes: Uint8Array, request: Request<unknown>) => Effect.Effect<unknown, JsonError>

const utf8 = new TextDecoder()

const form = (text: string) => UrlParams.toRecord(UrlParams.fromInput(new URLSearchParams(text)))

const invalid = (issue: SchemaIssue.Issue, value: unknown): BodyInvalid =>
  new BodyInvalid({ fields: fieldsOfIssue(issue, { value }) })

const unreadable = () =>
  new BodyMalformed({ message: "The body cannot be read as multipart/form-data", position: undefined })

/** Parses from the bytes already read, so that other middlewares can still use them. */
const multipart = (limits: Multipart.withLimits.Options | undefined): Read => (bytes, request) => {
  const parts = Stream.make(bytes).pipe(
    Stream.pipeThroughChannel(Multipart.makeChannel<never>({ ...request.source.headers })),
    Multipart.toPersisted
  )
  const within = limits === undefined ? parts : Effect.provideContext(parts, Multipart.limitsServices(limits))
  // the API builder requires the services of its servers, and the router provides a scope for each request
  return Effect.mapError(within, unreadable) as Effect.Effect<unknown, JsonError>
}

/** The parts of an endpoint that this module reads. */
export interface Endpoint extends HttpApiEndpoint.ConstraintRequest {
  readonly method: HttpMethod.HttpMethod
  readonly path: string
  readonly payload: HttpApiEndpoint.PayloadMap
}

/** Reads the payload of requests to an endpoint: as `payload` if the endpoint declares one, otherwise an empty object. */
export const payloadDecoder = (
  endpoint: Endpoint,
  options: ReaderOptions & JsonLimits
): (request: Request<unknown>) => Effect.Effect<{ readonly payload?: unknown }, JsonError> => {
  const { method, payload } = endpoint
  if (payload.size === 0) return () => Exit.succeed({})
  const accepts = options.accepts ?? [...payload.keys()]
  const read = reader({ ...options, accepts })
  const parse = jsonParser(options)
  const hasBody = HttpMethod.hasBody(method)
  const readers = new Map<string, Read>()
  for (const [contentType, { encoding, schemas }] of payload) {
    if (encoding._tag === "Stream") {
      throw new RangeError("Body: endpoint must have a payload that is read whole, got one that is streamed")
    }
    const union = Schema.Union(schemas)
    // the endpoint's builder already requires the services of its schemas, and most schemas need none
    const schema = (encoding._tag === "FormUrlEncoded"
      ? Schema.toCodecArrayFromSingle(union)
      : union) as unknown as Schema.ConstraintCodec<unknown, unknown>
    const fast = SchemaParser.decodeUnknownEffect(schema)
    const whole = SchemaParser.decodeUnknownEffect(schema, { errors: "all" })
    const decode = (value: unknown): Effect.Effect<unknown, BodyInvalid> =>
      withinStack(() =>
        Effect.catchEager(fast(value), () => Effect.mapErrorEager(whole(value), (issue) => invalid(issue, value)))
      )
    const values = {
      Json: parse,
      Text: (bytes: Uint8Array) => Exit.succeed(utf8.decode(bytes)),
      Uint8Array: (bytes: Uint8Array) => Exit.succeed(bytes),
      FormUrlEncoded: (bytes: Uint8Array) => Exit.succeed(form(utf8.decode(bytes))),
      Multipart: multipart("limits" in encoding ? encoding.limits : undefined)
    }
    const value: Read = values[encoding._tag]
    readers.set(contentType, (bytes, request) =>
      encoding._tag === "Json" && bytes.length === 0
        // an empty body is valid for an optional payload, and malformed JSON otherwise
        ? Effect.catchEager(decode(undefined), () => parse(bytes))
        : Effect.flatMapEager(value(bytes, request), decode))
  }
  return (request) => {
    const named = (value: unknown) => ({ payload: value })
    if (!hasBody) {
      const [only] = readers.values()
      const query = new TextEncoder().encode(request.query.toString())
      return Effect.mapEager(only!(query, request), named)
    }
    return Effect.flatMapEager(read(request.withPayload(undefined)), (bytes) => {
      const found = readers.get(typeOf(request.source.headers["content-type"] ?? "")) ?? [...readers.values()][0]!
      return Effect.mapEager(found(bytes, request), named)
    })
  }
}
