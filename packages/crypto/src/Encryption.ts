/**
 * Encrypts the bodies of messages, and binds each to its channel, key and content type: a body that was changed or moved does not
 * open.
 */
import { Eager, OptionCheck, PayloadCodec } from "@millrace/core"
import { Clock, Effect, Exit } from "effect"
import { associatedData, type Context } from "./internal/associated.ts"
import { decrypt, encrypt } from "./internal/body.ts"
import type { DataKey } from "./internal/dataKey.ts"
import * as Envelope from "./internal/envelope.ts"
import { endOf, type Plaintext } from "./internal/plaintext.ts"
import { type KeyRevoked, type KeysUnavailable, type KeyUnknown, Tampered, Unencrypted } from "./internal/errors.ts"
import * as Keys from "./Keys.ts"

export { type Context } from "./internal/associated.ts"
export { KeyRevoked, KeyUnknown, Tampered, Unencrypted } from "./internal/errors.ts"

/** AES-256-GCM (NIST SP 800-38D), or XAES-256-GCM (C2SP), whose nonces have 192 bits. */
export type Algorithm = Envelope.Algorithm

/** Options of `make`. */
export interface Options {
  /**
   * The algorithm that writes; every body is read by the algorithm that its envelope names. `xaes256Gcm` is for data keys of more than
   * 2^32 messages together with a policy that forbids relying on their rotation. Default: `aes256Gcm`.
   */
  readonly algorithm?: Algorithm | undefined
  /** Names of headers whose values the body is bound to, beside channel, key and content type. Default: none. */
  readonly bind?: ReadonlyArray<string> | undefined
  /**
   * Bodies that are not encrypted: refused, or accepted until a date while publishers change over. Default: `refuse`.
   */
  readonly plaintext?: Plaintext | undefined
}

/** The defaults of the options of `make`. */
export const defaults = { algorithm: "aes256Gcm", plaintext: "refuse" } as const

/** The reasons why a body does not open. */
export type OpenError = Tampered | Unencrypted | KeyUnknown | KeyRevoked | KeysUnavailable

/** Encrypts and decrypts bodies. */
export interface Encryption {
  /** Encrypts a body; an Exit while the keys are in memory. */
  readonly seal: (bytes: Uint8Array, context: Context) => Effect.Effect<Uint8Array, KeysUnavailable, Keys.Ring>
  /** Decrypts a body with the context that it was encrypted with; an Exit while its key is in memory. */
  readonly open: (bytes: Uint8Array, context: Context) => Effect.Effect<Uint8Array, OpenError, Keys.Ring>
}

const check = OptionCheck.make("Encryption")

const bindOf = (bind: ReadonlyArray<string>): ReadonlyArray<string> => {
  const names = [...new Set(bind.map((name) => name.toLowerCase()))].sort()
  if (names.includes("")) throw new RangeError("Encryption: bind must be names of headers, got an empty text")
  return names
}

const bufferOf = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/**
 * Makes the encryption of a channel's bodies.
 *
 * @throws RangeError when an option is invalid
 * @category constructors
 */
export const make = (options: Options = {}): Encryption => {
  const algorithm = check.oneOf("algorithm", options.algorithm ?? defaults.algorithm, Envelope.algorithms)
  const bind = bindOf(options.bind ?? [])
  const end = endOf("Encryption", options.plaintext ?? defaults.plaintext)

  const plain = (bytes: Uint8Array, channel: string): Effect.Effect<Uint8Array, Unencrypted> =>
    end === -Infinity
      ? Exit.fail(new Unencrypted({ channel }))
      : Effect.flatMapEager(Eager.service(Clock.Clock), (clock) =>
        clock.currentTimeMillisUnsafe() < end ? Exit.succeed(bytes) : Exit.fail(new Unencrypted({ channel })))

  return {
    seal: (bytes, context) =>
      Effect.flatMapEager(Eager.service(Keys.Ring), (ring) =>
        Effect.mapEager(
          ring.writing(algorithm, bytes.length),
          (data) => encrypt(data, associatedData(data.header, context, bind), bytes)
        )),
    open: (bytes, context) => {
      if (!Envelope.isEnvelope(bytes)) return plain(bytes, context.channel)
      const tampered = () => Exit.fail(new Tampered({ channel: context.channel, version: Envelope.versionOf(bytes) }))
      const headerBytes = Envelope.headerBytes(bytes)
      if (headerBytes === undefined) return tampered()
      const envelope = bufferOf(bytes)
      const decrypted = (data: DataKey | undefined): Effect.Effect<Uint8Array, Tampered> => {
        if (data === undefined) return tampered()
        const body = decrypt(data, associatedData(data.header, context, bind), envelope)
        return body === undefined ? tampered() : Exit.succeed(body)
      }
      return Effect.flatMapEager(
        Eager.service(Keys.Ring),
        (ring) => Effect.flatMapEager(ring.reading(envelope, headerBytes), decrypted)
      )
    }
  }
}

const told = (error: OpenError): PayloadCodec.PayloadError =>
  new PayloadCodec.PayloadError({
    failure: error.failure,
    codec: "Encryption",
    message: error.message,
    reason: error._tag,
    retryAfter: error._tag === "KeysUnavailable" ? error.retryAfter : undefined
  })

/** The place of a message, to which its body is bound. */
const contextOf = (metadata: PayloadCodec.Metadata): Context => ({
  channel: metadata.channel,
  key: metadata.keyBytes,
  contentType: metadata.headers["content-type"],
  headers: metadata.headers
})

/**
 * Makes the encryption of a channel, for `PayloadCodec.through`: bodies leave the process encrypted, and `Decode` reads them.
 *
 * Types: `Keys.Ring` enters R of publishers, `Decode`, requests and outboxes of the channel. Place: after compression, before a
 * store; another order does not compile.
 *
 * Errors: a `DecodeError` or `EncodeError` whose `reason` is `Tampered`, `Unencrypted` or `KeyUnknown` (class `poison`), `KeyRevoked`
 * (class `permanent`), which become dead letters, or `KeysUnavailable` (class `dependency`), which returns the message to its source.
 *
 * A tombstone is not encrypted. Dead letters, retries and replays keep the encrypted body, and the channel that it is bound to is the one
 * that the message was first read from.
 *
 * **Example** (encrypted orders)
 *
 * ```ts
 * import { Channel, PayloadCodec } from "@millrace/core"
 * import { Encryption } from "@millrace/crypto"
 * import { Schema } from "effect"
 *
 * const Orders = Channel.make("orders", {
 *   payload: Schema.Struct({ id: Schema.String, amount: Schema.Finite }),
 *   codec: PayloadCodec.through(Channel.json, [Encryption.transform()])
 * })
 * ```
 *
 * @throws RangeError when an option is invalid
 * @category constructors
 */
export const transform = (options: Options = {}): PayloadCodec.Transform<Keys.Ring, "encrypt"> => {
  const { open, seal } = make(options)
  return {
    name: "Encryption",
    stage: "encrypt",
    encode: (bytes, metadata) =>
      Effect.mapEager(
        Effect.mapErrorEager(seal(bytes, contextOf(metadata)), told),
        (sealed) => ({ bytes: sealed })
      ),
    decode: (bytes, metadata) => Effect.mapErrorEager(open(bytes, contextOf(metadata)), told)
  }
}
