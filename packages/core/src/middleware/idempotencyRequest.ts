/**
 * What tells one request from another: its key, its place, what it says; and how its answer is kept.
 */
import { Effect, Exit, type Schema } from "effect"
import { type Envelope, Message } from "../model/Message.ts"
import { decoder, encoder } from "../pipeline/compile.ts"

/** FNV-1a in two halves that begin apart: no defence against whoever makes collisions, who only fools himself. */
const hash = (bytes: Uint8Array): string => {
  let a = 0x811c9dc5
  let b = 0x01000193
  for (let i = 0; i < bytes.length; i++) {
    a = Math.imul(a ^ bytes[i]!, 0x01000193)
    b = Math.imul(b ^ bytes[i]!, 0x85ebca6b)
  }
  return `${bytes.length}-${(a >>> 0).toString(36)}-${(b >>> 0).toString(36)}`
}

// a structured field string by the draft, yet most clients send it bare
const unquoted = (value: string | undefined): string | undefined =>
  value !== undefined && value.length > 1 && value.startsWith("\"") && value.endsWith("\"") ? value.slice(1, -1) : value

export const keyOf = ({ headers, kind }: Envelope): string | undefined =>
  unquoted(headers["idempotency-key"]) ??
    (kind === "consumer" || kind === "producer" ? headers["message-id"] : undefined)

const bodyOf = (message: Envelope): Uint8Array | undefined => {
  if (message instanceof Message) return message.raw
  const { payload } = message as { readonly payload?: unknown }
  return payload instanceof Uint8Array ? payload : undefined
}

export const fingerprintOf = (message: Envelope): string | undefined => {
  const body = bodyOf(message)
  return body && hash(body)
}

/** The channel, and of a consumer its group: two groups handle one message once each. */
export const placeOf = (message: Envelope): string =>
  message instanceof Message ? `${message.delivery.origin.group}\n${message.channel}` : message.channel

const nothing = new Uint8Array(0)
const text = { encode: new TextEncoder(), decode: new TextDecoder() }

/** How an answer is kept. */
export interface Codec {
  readonly write: (answer: unknown) => Effect.Effect<Uint8Array>
  readonly read: (bytes: Uint8Array) => Effect.Effect<unknown>
}

/** Of a handler that answers nothing. */
export const silent: Codec = { write: () => Exit.succeed(nothing), read: () => Exit.void }

/** JSON by a schema; an answer that does not fit its own schema is a mistake of the program. */
export const codecOf = <A>(schema: Schema.ConstraintCodec<A, unknown>): Codec => {
  const [write, read] = [encoder(schema), decoder(schema)]
  return {
    // the type of `middleware` asks for an answer of the schema
    write: (answer) =>
      Effect.mapEager(Effect.orDie(write(answer as A)), (json) => text.encode.encode(JSON.stringify(json))),
    read: (bytes) => Effect.orDie(read(JSON.parse(text.decode.decode(bytes))))
  }
}
