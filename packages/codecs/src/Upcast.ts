/**
 * Versions of a payload: bodies of old versions are changed step by step into the newest one, which the handler gets.
 */
import { Channel, OptionCheck, PayloadCodec } from "@millrace/core"
import { issueText } from "@millrace/core/issueText"
import { Effect, Exit, Schema, type SchemaIssue, SchemaParser } from "effect"

/** A change from one version of a payload to the next one. */
export interface Step<in out From, in out To> {
  readonly from: Schema.ConstraintCodec<From, unknown>
  readonly to: Schema.ConstraintCodec<To, unknown>
  readonly change: (value: From) => To
}

/**
 * Makes a change from one version to the next one. `change` gets and returns the typed values of the schemas; it may throw, and
 * the message then becomes a dead letter.
 *
 * @category constructors
 */
export const step = <From, To>(
  from: Schema.ConstraintCodec<From, unknown>,
  to: Schema.ConstraintCodec<To, unknown>,
  change: (value: NoInfer<From>) => NoInfer<To>
): Step<From, To> => ({ from, to, change })

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false

declare const refused: unique symbol

/** Nothing is assignable to it: the compiler's message shows the sentence. */
interface Misplaced<Reason extends string> {
  readonly [refused]: Reason
}

/** Refuses steps of which one does not begin with the version that the one before ends with. */
export type InOrder<T> = T extends
  readonly [Step<infer _A, infer B>, Step<infer C, infer _D>, ...infer _Rest extends ReadonlyArray<unknown>]
  ? Same<B, C> extends true ? T extends readonly [unknown, ...infer Next] ? InOrder<Next> : unknown
  : Misplaced<"each step begins with the version that the step before ends with">
  : unknown

/** Options of `make`. */
export interface Options<R = never> {
  /** The codec of all versions; transforms go around the result, by `PayloadCodec.through`. Default: JSON. */
  readonly codec?: Channel.Codec | PayloadCodec.PayloadCodec<R> | undefined
  /** The version of the first step's `from`; an integer from 0. Default: 1. */
  readonly first?: number | undefined
  /**
   * The place of the version: a header, or a field of the payload, which must be an object. Default: the header
   * `schema-version`.
   */
  readonly version?: { readonly header: string } | { readonly field: string } | undefined
  /** A body without a version is of the first one (`first`), or a dead letter (`refuse`). Default: `first`. */
  readonly missing?: "first" | "refuse" | undefined
}

/** The defaults of the options. */
export const defaults = { first: 1, version: { header: "schema-version" }, missing: "first" } as const

/** A step of any two versions: each compiled one was typed by `step`. */
interface AnyStep {
  readonly from: Schema.ConstraintCodec<unknown, unknown>
  readonly to: Schema.ConstraintCodec<unknown, unknown>
  readonly change: (value: never) => unknown
}

const failed = (
  failure: PayloadCodec.PayloadError["failure"],
  reason: string,
  message: string,
  cause?: unknown
): Exit.Exit<never, PayloadCodec.PayloadError> =>
  Exit.fail(new PayloadCodec.PayloadError({ codec: "Upcast", failure, reason, message, cause }))

const isObject = (value: unknown): value is { readonly [key: string]: unknown } =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)

type Change = (value: unknown) => Effect.Effect<unknown, PayloadCodec.PayloadError>

const formOf = (
  schema: Schema.ConstraintCodec<unknown, unknown>,
  values: "json" | "native"
): Schema.Codec<unknown, unknown> =>
  // the constraint is a view of a whole schema, and no other code makes one
  values === "json" ? Schema.toCodecJson(schema) : schema as Schema.Codec<unknown, unknown>

const misfit = (version: number) => (issue: SchemaIssue.Issue) =>
  failed(
    "validation",
    "value",
    `The body of version ${version} does not fit its schema: ${issueText(issue)[0]?.message ?? "it is invalid"}`
  )

/** Makes the change from the raw value of one version to that of the newest. */
const climb = (steps: ReadonlyArray<AnyStep>, first: number, values: "json" | "native"): Change => {
  const newest = first + steps.length
  const decode = SchemaParser.decodeUnknownEffect(formOf(steps[0]!.from, values))
  const encode = SchemaParser.encodeUnknownEffect(formOf(steps.at(-1)!.to, values))
  const changed = (value: unknown): Exit.Exit<unknown, PayloadCodec.PayloadError> => {
    let current = value
    for (let index = 0; index < steps.length; index++) {
      try {
        current = steps[index]!.change(current as never)
      } catch (cause) {
        const from = first + index
        return failed("permanent", "change", `The change from version ${from} to ${from + 1} failed`, cause)
      }
    }
    return Exit.succeed(current)
  }
  return (raw) =>
    Effect.flatMapEager(
      Effect.catchEager(decode(raw), misfit(first)),
      (value) =>
        Effect.flatMapEager(
          changed(value),
          (value) => Effect.catchEager(encode(value), misfit(newest))
        )
    )
}

const numberIn = (value: unknown): number | undefined => {
  if (typeof value === "string" && /^\d{1,9}$/.test(value)) return Number(value)
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined
}

/**
 * Makes a codec that reads every version of a payload and writes the newest: steps lead from the first version to the newest, each
 * from the version that the step before ends with; another order does not compile. The channel's schema is that of the
 * last step.
 *
 * Errors: a version newer than the last is class `permanent` with the reason `newerVersion`, so its message becomes a dead letter
 * that the program's next release can replay. A version below the first, or none where `missing` is `refuse`, is class
 * `poison`; a body that does not fit the schema of its version is class `validation`; a change that throws is class
 * `permanent`. Each such message becomes a dead letter with its bytes.
 *
 * @example
 * ```ts
 * import { Channel } from "@millrace/core"
 * import { Upcast } from "@millrace/codecs"
 * import { Schema } from "effect"
 *
 * const V1 = Schema.Struct({ id: Schema.String, total: Schema.Number })
 * const V2 = Schema.Struct({ id: Schema.String, cents: Schema.Int })
 * const V3 = Schema.Struct({ id: Schema.String, cents: Schema.Int, currency: Schema.String })
 *
 * const versions = Upcast.make([
 *   Upcast.step(V1, V2, ({ id, total }) => ({ id, cents: Math.round(total * 100) })),
 *   Upcast.step(V2, V3, (order) => ({ ...order, currency: "EUR" }))
 * ])
 * const Orders = Channel.make("orders", { payload: V3, codec: versions })
 * ```
 *
 * @throws RangeError when there is no step, steps do not follow each other, the codec has transforms, or an option is wrong
 * @category constructors
 */
export const make = <const S extends ReadonlyArray<AnyStep>, R = never>(
  steps: S & InOrder<S>,
  options: Options<R> = {}
): PayloadCodec.PayloadCodec<R> => {
  const chain: ReadonlyArray<AnyStep> = steps as ReadonlyArray<AnyStep>
  const check = OptionCheck.make("Upcast")
  const first = check.count("first", options.first ?? defaults.first, { least: 0 })
  const missing = check.oneOf("missing", options.missing ?? defaults.missing, ["first", "refuse"])
  const place = options.version ?? defaults.version
  const inner = PayloadCodec.of<R>(options.codec ?? Channel.json)
  if (chain.length === 0) throw new RangeError("Upcast: steps must be at least one, got none")
  if (inner.transforms.length > 0) {
    throw new RangeError("Upcast: codec has transforms; put them around the result by PayloadCodec.through")
  }
  chain.forEach((each, index) => {
    if (index > 0 && chain[index - 1]!.to !== each.from) {
      throw new RangeError(`Upcast: step ${index + 1} does not begin with the schema that step ${index} ends with`)
    }
  })
  const newest = first + chain.length
  const changes = chain.map((_, index) => climb(chain.slice(index), first + index, inner.values))

  const upcast = (raw: unknown, given: unknown): Effect.Effect<unknown, PayloadCodec.PayloadError> => {
    if (given === undefined && missing === "refuse") {
      return failed("poison", "version", `The body has no version: set missing to first to read it as version ${first}`)
    }
    const version = given === undefined ? first : numberIn(given)
    if (version === newest) return Exit.succeed(raw)
    if (version === undefined || version < first) {
      return failed("poison", "version", `The body has a version that is none from ${first} to ${newest}`)
    }
    return version > newest
      ? failed(
        "permanent",
        "newerVersion",
        `The body has version ${version}, and this program knows ${first} to ${newest}: update it, then replay its dead letters`
      )
      : changes[version - first]!(raw)
  }

  if ("field" in place) {
    const { field } = place
    return PayloadCodec.make<R>({
      name: `Upcast of ${inner.name}`,
      contentType: inner.contentType,
      values: inner.values,
      encode: (value, metadata) =>
        isObject(value)
          ? inner.encode({ ...value, [field]: newest }, metadata)
          : failed("validation", "value", `An object is needed for the field ${field}, got ${typeof value}`),
      decode: (bytes, metadata) =>
        Effect.flatMapEager(inner.decode(bytes, metadata), (raw) => upcast(raw, isObject(raw) ? raw[field] : undefined))
    })
  }
  const header = place.header.toLowerCase()
  const headers = { [header]: String(newest) }
  return PayloadCodec.make<R>({
    name: `Upcast of ${inner.name}`,
    contentType: inner.contentType,
    values: inner.values,
    encode: (value, metadata) =>
      Effect.mapEager(inner.encode(value, metadata), (encoded) => ({
        ...encoded,
        headers: encoded.headers === undefined ? headers : { ...encoded.headers, ...headers }
      })),
    decode: (bytes, metadata) =>
      Effect.flatMapEager(inner.decode(bytes, metadata), (raw) => upcast(raw, metadata.headers[header]))
  })
}
