/**
 * Encrypts marked values of a payload by themselves: the rest of the payload stays readable for routers, filters and consumers without
 * the keys.
 */
import { type Channel, Eager, PayloadCodec, Redaction } from "@millrace/core"
import { Clock, Effect, Exit, Schema } from "effect"
import { fieldAssociatedData, type FieldContext } from "./internal/associated.ts"
import { decrypt, encrypt } from "./internal/body.ts"
import type { DataKey } from "./internal/dataKey.ts"
import * as Envelope from "./internal/envelope.ts"
import { type KeyRevoked, type KeysUnavailable, KeyUnknown, SubjectErased } from "./internal/errors.ts"
import { fromBytes, toBytes } from "./internal/fieldValue.ts"
import { type Leaf, replaced } from "./internal/fieldWalk.ts"
import { type Mark, MarkId, placesOf } from "./internal/places.ts"
import { endOf, type Plaintext } from "./internal/plaintext.ts"
import * as Search from "./internal/search.ts"
import { Ring } from "./Keys.ts"
import { Service as SubjectKeysService } from "./SubjectKeys.ts"

/** Options of `of`. */
export interface MarkOptions {
  /**
   * The way to the id of the data subject in the encoded payload, e.g. `customer.id`: a text or a number, not marked and in no list. The
   * value is encrypted by the key of its subject, and needs `codecOfSubjects`. Default: none, the value is encrypted by `Keys.Ring`.
   */
  readonly subject?: string | undefined
}

const pathOf = (subject: string): ReadonlyArray<string> => {
  const path = subject.split(".")
  if (path.includes("")) {
    throw new RangeError(`EncryptedField: subject must be names joined by dots, got ${JSON.stringify(subject)}`)
  }
  return path
}

const marked = <S extends Schema.Top>(schema: S, mark: Mark): S["Rebuild"] =>
  Redaction.secret(schema.annotate({ [MarkId]: mark }))

/**
 * Marks a schema: its values are encrypted wherever they are in a payload. Log lines and audit rows redact them too, as
 * `Redaction.secret`.
 *
 * @throws RangeError when `subject` is no path
 * @category schemas
 */
export const of = <S extends Schema.Top>(schema: S, { subject }: MarkOptions = {}): S["Rebuild"] =>
  marked(schema, { subject: subject === undefined ? undefined : pathOf(subject), erasable: false, mode: "random" })

/** Stands for a value whose data subject is erased. */
export const Erased = Schema.TaggedStruct("Erased", {})

/**
 * Marks a schema as `of` does, for values that become `Erased` when their data subject is erased. Without it such a message fails for
 * good (class `permanent`).
 *
 * @throws RangeError when `subject` is no path
 * @category schemas
 */
export const erasable = <S extends Schema.Top>(
  schema: S,
  { subject }: { readonly subject: string }
): Schema.Union<readonly [S, typeof Erased]> =>
  Redaction.secret(
    Schema.Union([schema, Erased]).annotate({
      [MarkId]: { subject: pathOf(subject), erasable: true, mode: "random" } satisfies Mark
    })
  )

/**
 * Marks a schema whose values must be found by equality without their keys, e.g. in a table of messages. Equal values of the same
 * place and channel have equal ciphertexts (AES-SIV): every reader of messages sees which are equal and how often each occurs, and can
 * guess values of small sets. It needs `searchKey` of the codec, and is not bound to the message's key.
 *
 * @category schemas
 */
export const searchable = <S extends Schema.Top>(schema: S): S["Rebuild"] =>
  marked(schema, { subject: undefined, erasable: false, mode: "deterministic" })

/** Options of `codec` and `codecOfSubjects`. */
export interface Options {
  /** Marked values that are not encrypted: refused, or accepted until a date while publishers change over. Default: `refuse`. */
  readonly plaintext?: Plaintext | undefined
  /** The key of `searchable` values: 64 bytes, or their base64 or base64url. It cannot be rotated without writing all values again. */
  readonly searchKey?: Search.Key | undefined
}

/** The defaults of the options. */
export const defaults = { plaintext: "refuse" } as const

/** The kinds of failure in `DecodeError` and `EncodeError`. */
export type Reason =
  | "Tampered"
  | "Unencrypted"
  | "KeyUnknown"
  | "KeyRevoked"
  | "KeysUnavailable"
  | "SubjectErased"
  | "SubjectMissing"
  | "Value"

const name = "EncryptedField"

const failed = (
  failure: PayloadCodec.PayloadError["failure"],
  reason: Reason,
  message: string
): PayloadCodec.PayloadError => new PayloadCodec.PayloadError({ codec: name, failure, reason, message })

const told = (error: KeyUnknown | KeyRevoked | KeysUnavailable | SubjectErased): PayloadCodec.PayloadError =>
  new PayloadCodec.PayloadError({
    codec: name,
    failure: error.failure,
    reason: error._tag,
    message: error.message,
    retryAfter: error._tag === "KeysUnavailable" ? error.retryAfter : undefined
  })

/** The place of a value in error texts: without the names of a record's entries, which are data. */
const shown = (leaf: Leaf): string => leaf.place === "" ? "the payload" : leaf.place

const subjectOf = (mark: Mark, payload: unknown): string | undefined => {
  let value = payload
  for (const name of mark.subject ?? []) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) return undefined
    value = Reflect.get(value, name)
  }
  return typeof value === "string" && value !== "" ? value : Number.isSafeInteger(value) ? String(value) : undefined
}

const isErased = (value: unknown): boolean =>
  typeof value === "object" && value !== null && Reflect.get(value, "_tag") === "Erased"

/** A value on the wire: base64url in JSON, bytes elsewhere. */
interface Wire<Value> {
  readonly write: (bytes: Buffer) => Value
  /** Returns the bytes; undefined if the value is none of `write`. */
  readonly read: (value: unknown) => Buffer | undefined
}

const text: Wire<string> = {
  write: (bytes) => bytes.toString("base64url"),
  read: (value) => {
    if (typeof value !== "string") return undefined
    const bytes = Buffer.from(value, "base64url")
    // other spellings of the same bytes are changed texts
    return bytes.toString("base64url") === value ? bytes : undefined
  }
}

const binary: Wire<Uint8Array> = {
  write: (bytes) => bytes,
  read: (value) =>
    value instanceof Uint8Array ? Buffer.from(value.buffer, value.byteOffset, value.byteLength) : undefined
}

/** Encrypts and decrypts values with a kind of key. */
interface Cipher<R> {
  readonly seal: (leaf: Leaf, context: FieldContext, plain: Buffer) => Effect.Effect<
    Buffer,
    KeysUnavailable | SubjectErased,
    R
  >
  /** Returns the bytes of a value, `erased`, or undefined if it was changed. */
  readonly open: (
    leaf: Leaf,
    context: FieldContext,
    envelope: Buffer,
    headerBytes: number
  ) => Effect.Effect<Buffer | "erased" | undefined, KeyUnknown | KeyRevoked | KeysUnavailable, R>
}

const opened = (data: DataKey | undefined, context: FieldContext, envelope: Buffer): Buffer | undefined =>
  data === undefined ? undefined : decrypt(data, fieldAssociatedData(data.header, context), envelope)

const sealed = (data: DataKey, context: FieldContext, plain: Buffer): Buffer =>
  encrypt(data, fieldAssociatedData(data.header, context), plain)

const ofRing: Cipher<Ring> = {
  seal: (_leaf, context, plain) =>
    Effect.flatMapEager(
      Eager.service(Ring),
      (ring) => Effect.mapEager(ring.writing("aes256Gcm", plain.length), (data) => sealed(data, context, plain))
    ),
  open: (_leaf, context, envelope, headerBytes) =>
    Effect.flatMapEager(
      Eager.service(Ring),
      (ring) => Effect.mapEager(ring.reading(envelope, headerBytes), (data) => opened(data, context, envelope))
    )
}

const ofSubjects: Cipher<SubjectKeysService> = {
  seal: (leaf, context, plain) =>
    Effect.flatMapEager(
      Eager.service(SubjectKeysService),
      (keys) =>
        Effect.flatMapEager(keys.writing(context.subject ?? ""), (data) =>
          data === "erased"
            ? Exit.fail(new SubjectErased({ path: shown(leaf) }))
            : Exit.succeed(sealed(data, context, plain)))
    ),
  open: (_leaf, context, envelope, headerBytes) =>
    Effect.flatMapEager(
      Eager.service(SubjectKeysService),
      (keys) =>
        Effect.flatMapEager(keys.reading(context.subject ?? "", envelope, headerBytes), (data) => {
          if (data === "unknown") return Exit.fail(new KeyUnknown({ keyId: "subject" }))
          return Exit.succeed(data === "erased" ? data : opened(data, context, envelope))
        })
    )
}

const fieldContext = ({ mark, path }: Leaf, payload: unknown, metadata: PayloadCodec.Metadata): FieldContext => ({
  channel: metadata.channel,
  key: metadata.keyBytes,
  path,
  subject: subjectOf(mark, payload)
})

const withoutSubject = (leaf: Leaf, failure: "poison" | "validation"): PayloadCodec.PayloadError =>
  failed(
    failure,
    "SubjectMissing",
    `The data subject of ${shown(leaf)} is missing: ${(leaf.mark.subject ?? []).join(".")} must be a text or an integer`
  )

const changed = (leaf: Leaf): PayloadCodec.PayloadError =>
  failed(
    "poison",
    "Tampered",
    `The encrypted value of ${
      shown(leaf)
    } does not open: it was changed, or written for another place, channel, key or data subject`
  )

const make = <P, R, K>(
  schema: Schema.ConstraintCodec<P, unknown>,
  inner: PayloadCodec.PayloadCodec<R>,
  options: Options,
  cipherOf: (mark: Mark) => Cipher<K>
): PayloadCodec.PayloadCodec<R | K> => {
  if (inner.transforms.length > 0) {
    throw new RangeError("EncryptedField: the codec must have no transforms: put PayloadCodec.through around this one")
  }
  const isJson = inner.values === "json"
  const wire: Wire<unknown> = isJson ? text : binary
  const { marks, root } = placesOf(isJson ? Schema.toCodecJson(schema).ast : schema.ast)
  // throws for a missing kind of key
  marks.forEach(cipherOf)
  const end = endOf(name, options.plaintext ?? defaults.plaintext)
  const searchKey = options.searchKey === undefined ? undefined : Search.importKey(options.searchKey)
  if (searchKey === undefined && marks.some(({ mode }) => mode === "deterministic")) {
    throw new RangeError("EncryptedField: searchKey must be given for values that are searchable, got none")
  }

  const seal = (metadata: PayloadCodec.Metadata) =>
  (
    leaf: Leaf,
    payload: unknown
  ): Effect.Effect<unknown, PayloadCodec.PayloadError, K> => {
    const { mark, pattern, value } = leaf
    if (mark.erasable && isErased(value)) return Exit.succeed(wire.write(Buffer.alloc(0)))
    let plain: Buffer
    try {
      plain = toBytes(value)
    } catch (cause) {
      return Exit.fail(failed("validation", "Value", `${shown(leaf)}: ${cause instanceof Error ? cause.message : ""}`))
    }
    if (mark.mode === "deterministic" && searchKey !== undefined) {
      return Exit.succeed(wire.write(Search.seal(searchKey, metadata.channel, pattern, plain)))
    }
    const context = fieldContext(leaf, payload, metadata)
    if (mark.subject !== undefined && context.subject === undefined) {
      return Exit.fail(withoutSubject(leaf, "validation"))
    }
    return Effect.mapEager(Effect.mapErrorEager(cipherOf(mark).seal(leaf, context, plain), told), wire.write)
  }

  const plainUntil = (leaf: Leaf): Effect.Effect<unknown, PayloadCodec.PayloadError> =>
    Effect.flatMapEager(Eager.service(Clock.Clock), (clock) =>
      clock.currentTimeMillisUnsafe() < end
        ? Exit.succeed(leaf.value)
        : Exit.fail(failed(
          "poison",
          "Unencrypted",
          `The value of ${
            shown(leaf)
          } is not encrypted. While publishers change over, plaintext.acceptUntil accepts such values until a date`
        )))

  const open = (metadata: PayloadCodec.Metadata) =>
  (
    leaf: Leaf,
    payload: unknown
  ): Effect.Effect<unknown, PayloadCodec.PayloadError, K> => {
    const { mark, pattern } = leaf
    const bytes = wire.read(leaf.value)
    if (mark.mode === "deterministic" && searchKey !== undefined) {
      if (bytes === undefined || !Search.isSealed(bytes)) return plainUntil(leaf)
      const plain = Search.open(searchKey, metadata.channel, pattern, bytes)
      return plain === undefined ? Exit.fail(changed(leaf)) : Exit.succeed(fromBytes(plain))
    }
    const isMarker = mark.erasable && bytes?.length === 0
    if (!isMarker && (bytes === undefined || !Envelope.isEnvelope(bytes))) return plainUntil(leaf)
    const context = fieldContext(leaf, payload, metadata)
    if (mark.subject !== undefined && context.subject === undefined) return Exit.fail(withoutSubject(leaf, "poison"))
    const headerBytes = isMarker || bytes === undefined ? 0 : Envelope.headerBytes(bytes)
    if (headerBytes === undefined) return Exit.fail(changed(leaf))
    return Effect.flatMapEager(
      Effect.mapErrorEager(cipherOf(mark).open(leaf, context, bytes ?? Buffer.alloc(0), headerBytes), told),
      (plain): Exit.Exit<unknown, PayloadCodec.PayloadError> => {
        if (plain === undefined) return Exit.fail(changed(leaf))
        if (plain !== "erased") return Exit.succeed(fromBytes(plain))
        return mark.erasable
          ? Exit.succeed({ _tag: "Erased" })
          : Exit.fail(told(new SubjectErased({ path: shown(leaf) })))
      }
    )
  }

  return PayloadCodec.make<R | K>({
    name: `${inner.name}, ${name}`,
    contentType: inner.contentType,
    values: inner.values,
    encode: (value, metadata) =>
      Effect.flatMapEager(replaced(root, value, seal(metadata)), (payload) => inner.encode(payload, metadata)),
    decode: (bytes, metadata) =>
      Effect.flatMapEager(inner.decode(bytes, metadata), (payload) => replaced(root, payload, open(metadata)))
  })
}

/**
 * Makes a codec that encrypts the marked values of a schema by `Keys.Ring`, and leaves all others as `codec` writes them. A marked
 * value becomes a text (base64url) where values are JSON, and bytes elsewhere: an Avro or Protobuf schema has `bytes` there.
 *
 * Each value is bound to its channel, the message's key and its path, list index included: one that is moved does not open. Missing
 * properties stay missing, and `null` is encrypted.
 *
 * Errors: `DecodeError` and `EncodeError` with a `Reason`. `Tampered`, `Unencrypted`, `KeyUnknown` are class `poison`, `KeyRevoked` and
 * `SubjectErased` class `permanent`, `KeysUnavailable` class `dependency`; no error has a part of a value.
 *
 * **Example** (the email address of an order)
 *
 * ```ts
 * import { Channel } from "@millrace/core"
 * import { EncryptedField } from "@millrace/crypto"
 * import { Schema } from "effect"
 *
 * const Order = Schema.Struct({ id: Schema.String, email: EncryptedField.of(Schema.String) })
 * const Orders = Channel.make("orders", { payload: Order, codec: EncryptedField.codec(Order, Channel.json) })
 * ```
 *
 * @throws RangeError when nothing is marked, a mark cannot be found in the encoded form, a mark has a subject, an option is invalid, or
 * the codec has transforms
 * @category constructors
 */
export const codec = <P, R = never>(
  schema: Schema.ConstraintCodec<P, unknown>,
  codec: Channel.Codec | PayloadCodec.PayloadCodec<R>,
  options: Options = {}
): PayloadCodec.PayloadCodec<R | Ring> =>
  make<P, R, Ring>(schema, PayloadCodec.of<R>(codec), options, (mark) => {
    if (mark.subject !== undefined) {
      throw new RangeError("EncryptedField: a mark has a subject: use codecOfSubjects")
    }
    return ofRing
  })

/**
 * Makes the codec that `codec` makes, for schemas with marks that have a data subject: those values are encrypted by the key of their
 * subject, of `SubjectKeys`, and cannot be read once it is erased.
 *
 * @throws RangeError as `codec`
 * @category constructors
 */
export const codecOfSubjects = <P, R = never>(
  schema: Schema.ConstraintCodec<P, unknown>,
  codec: Channel.Codec | PayloadCodec.PayloadCodec<R>,
  options: Options = {}
): PayloadCodec.PayloadCodec<R | Ring | SubjectKeysService> =>
  make<P, R, Ring | SubjectKeysService>(
    schema,
    PayloadCodec.of<R>(codec),
    options,
    (mark): Cipher<Ring | SubjectKeysService> => mark.subject === undefined ? ofRing : ofSubjects
  )

/**
 * Returns the ciphertext that a `searchable` value has on a channel, to look for it: base64url as in JSON. `path` has the names that lead
 * to the value, and `*` for each element of a list; `value` is as the schema encodes it.
 *
 * @throws RangeError when the key is invalid, TypeError when the value cannot be encrypted
 * @category search
 */
export const searchTerm = (options: {
  readonly searchKey: Search.Key
  readonly channel: string
  readonly path: ReadonlyArray<string>
  readonly value: unknown
}): string =>
  text.write(Search.seal(Search.importKey(options.searchKey), options.channel, options.path, toBytes(options.value)))
