/**
 * A body that carries a correlation id and optional data, as a schema built over the schema of the data.
 *
 * The id is also a header if a middleware added one. In the body, the id survives where headers get lost: in files, in tables,
 * behind brokers without headers.
 */
import { Schema } from "effect"
import * as OptionCheck from "./OptionCheck.ts"

/** A correlation id: 1 to 128 letters, digits and `_ . : / + = @ -`, so that it cannot break a log line. */
export const CorrelationId = Schema.String.check(
  Schema.isPattern(/^[\w.:/+=@-]{1,128}$/, {
    message: "Expected a correlation id: 1 to 128 letters, digits and _ . : / + = @ -"
  })
)

/** The fields of such a body. */
export interface Parcel<A> {
  readonly correlationId: string
  /** Absent if the id alone is the content: an acknowledgement, or a query. */
  readonly data?: A
}

/** A parcel that has data. */
export interface Required<A> extends Parcel<A> {
  readonly data: A
}

/** A parcel with additional fields. */
export interface Open<A> extends Parcel<A> {
  readonly [field: string]: unknown
}

/** A parcel that has data and additional fields. */
export interface OpenRequired<A> extends Required<A> {
  readonly [field: string]: unknown
}

/** Options of `make`. */
export interface Options {
  /**
   * The treatment of fields beside `correlationId` and `data`: `keep` passes them on, both ways, so that fields added by a newer
   * program get through an older one; `refuse` fails, and names them. Default: `keep`.
   */
  readonly unknown?: "keep" | "refuse" | undefined
  /** Whether a parcel may lack data: `required` refuses such a parcel, both ways. Default: `optional`. */
  readonly data?: "optional" | "required" | undefined
}

/** The overloads of `make`. */
export interface Build {
  <A, E, RD, RE>(
    data: Schema.Codec<A, E, RD, RE>,
    options: Options & { readonly unknown: "refuse"; readonly data: "required" }
  ): Schema.Codec<Required<A>, Required<E>, RD, RE>
  <A, E, RD, RE>(
    data: Schema.Codec<A, E, RD, RE>,
    options: Options & { readonly data: "required" }
  ): Schema.Codec<OpenRequired<A>, OpenRequired<E>, RD, RE>
  <A, E, RD, RE>(
    data: Schema.Codec<A, E, RD, RE>,
    options: Options & { readonly unknown: "refuse" }
  ): Schema.Codec<Parcel<A>, Parcel<E>, RD, RE>
  <A, E, RD, RE>(data: Schema.Codec<A, E, RD, RE>, options?: Options): Schema.Codec<Open<A>, Open<E>, RD, RE>
}

const known: ReadonlySet<string> = new Set(["correlationId", "data"])

// a key that would become the prototype of the copy's target is never kept
const Kept = Schema.Record(Schema.String.check(Schema.makeFilter((key) => key !== "__proto__")), Schema.Unknown)

const Refused = Schema.Record(
  Schema.String.check(Schema.makeFilter((key) => !known.has(key))),
  Schema.Never.annotate({ message: "Unknown field: a parcel has correlationId and data" })
)

/**
 * Makes the schema of a parcel around the schema of its data; it decodes and encodes, and fails if the parcel or the data is
 * invalid. Data may be absent unless `data` is `required`; `null` is data, and refused unless the data's schema accepts it.
 *
 * **Example** (an order in its parcel)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Parcel } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String, placed: Schema.DateTimeUtcFromString })
 * const json = Schema.fromJsonString(Parcel.make(Order))
 *
 * const text = `{"correlationId":"7f3a","data":{"id":"a","placed":"2030-01-01T00:00:00.000Z"},"region":"eu"}`
 * const parcel = Schema.decodeUnknownSync(json)(text)
 * console.log(parcel.correlationId, parcel.data?.id, parcel["region"]) // => 7f3a a eu
 * console.log(Schema.encodeSync(json)(parcel) === text) // => true
 * ```
 *
 * @category constructors
 */
export const make: Build = <A, E, RD, RE>(data: Schema.Codec<A, E, RD, RE>, options: Options = {}) => {
  const check = OptionCheck.make("Parcel")
  const unknown = check.oneOf("unknown", options.unknown ?? "keep", ["keep", "refuse"])
  const presence = check.oneOf("data", options.data ?? "optional", ["optional", "required"])
  const fields = presence === "required"
    ? Schema.Struct({ correlationId: CorrelationId, data })
    : Schema.Struct({ correlationId: CorrelationId, data: Schema.optionalKey(data) })
  // the remaining fields never include the known names, which their type cannot express
  return Schema.StructWithRest(fields, [unknown === "keep" ? Kept : Refused]) as unknown as Schema.Codec<
    OpenRequired<A>,
    OpenRequired<E>,
    RD,
    RE
  >
}
