import { type Claims, ClaimStore } from "@millrace/claims"
import { Headers, type PayloadCodec } from "@millrace/core"
import { Effect, Exit } from "effect"
import { assert } from "vitest"

/** Bytes that no compression and no repetition of parts hides. */
export const bytesOf = (length: number, seed = 1): Uint8Array => {
  const bytes = new Uint8Array(length)
  let state = seed
  for (let i = 0; i < length; i++) {
    state = Math.imul(state, 1_664_525) + 1_013_904_223
    bytes[i] = state >>> 24
  }
  return bytes
}

export const fieldsOf = (headers: { readonly [name: string]: string }): ReadonlyArray<Headers.Field> =>
  Object.entries(headers).map(([name, value]) => [name, new TextEncoder().encode(value)])

export const around = (
  headers: { readonly [name: string]: string } = {},
  more: Partial<PayloadCodec.Metadata> = {}
): PayloadCodec.Metadata => ({
  system: "memory",
  channel: "documents",
  key: undefined,
  keyBytes: undefined,
  headers: Headers.fromRecord(headers),
  fields: fieldsOf(headers),
  attempt: 1,
  timestamp: undefined,
  ...more
})

type Transform = PayloadCodec.Transform<ClaimStore.Store, "store">

/** Encodes a body, as a publisher does. */
export const encode = (transform: Transform, body: Uint8Array, metadata = around()) =>
  Effect.suspend(() => transform.encode(body, metadata))

/** Decodes what `encode` returned, as a reader does. */
export const decode = (
  transform: Transform,
  { bytes, headers = {} }: PayloadCodec.Encoded,
  more: Partial<PayloadCodec.Metadata> = {}
) => Effect.suspend(() => transform.decode(bytes, around({ ...headers }, more)))

/** The fields of a reference. */
export const referenceOf = (encoded: PayloadCodec.Encoded): Claims.Reference => {
  assert.strictEqual(encoded.headers?.["millrace-claim"], "1")
  return JSON.parse(new TextDecoder().decode(encoded.bytes)) as Claims.Reference
}

/** The class and reason of a failure. */
export const failureOf = <A, R>(
  effect: Effect.Effect<A, PayloadCodec.PayloadError, R>
): Effect.Effect<readonly [string, string | undefined], never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    assert(Exit.isFailure(exit), "it succeeds")
    const [reason] = exit.cause.reasons
    assert(reason?._tag === "Fail", String(exit.cause))
    return [reason.error.failure, reason.error.reason] as const
  })

export const store = ClaimStore.Store
