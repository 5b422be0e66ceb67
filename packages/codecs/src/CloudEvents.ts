/**
 * CloudEvents 1.0.2 on every broker and on HTTP: the attributes of an event beside the payload of any codec.
 *
 * In binary mode the body is the payload and the attributes are headers, as the binding of the broker says; in structured mode
 * both are in one JSON body. Both modes are always read.
 */
import {
  type Channel,
  Correlation,
  Eager,
  type Envelope,
  type Headers,
  Message,
  OptionCheck,
  PayloadCodec
} from "@millrace/core"
import { Clock, DateTime, Effect, Exit, Random, Schema } from "effect"
import * as Bounds from "./internal/bounds.ts"
import * as Parts from "./internal/cloudEvents/attributes.ts"
import * as Bindings from "./internal/cloudEvents/bindings.ts"
import * as Structured from "./internal/cloudEvents/structured.ts"

/** The attributes of an event. Values of extensions are texts: a boolean is `true` or `false`, an integer its digits. */
export type Attributes = Parts.Attributes

/** The message is no event of CloudEvents 1.0, or an attribute has no valid form. Its message holds no value. */
export const CloudEventsError = Parts.CloudEventsError
/** The message is no event of CloudEvents 1.0, or an attribute has no valid form. Its message holds no value. */
export type CloudEventsError = Parts.CloudEventsError

/**
 * A protocol binding: `kafka` writes headers `ce_NAME`, `http` and `nats` write `ce-NAME` with percent-encoding, `amqp` writes
 * `cloudEvents:NAME` (RabbitMQ too), `mqtt` user properties of the attribute's name.
 */
export type Binding = Bindings.Binding

/** Options of `codec` and `event`. */
export interface ModeOptions {
  /**
   * The mode of published events; both are read. `structured` also writes the headers of `binary`, by which filters and
   * `Identity` see the attributes. Default: `binary`.
   */
  readonly mode?: "binary" | "structured" | undefined
  /**
   * The binding of published events. Default: that of the broker; brokers that CloudEvents has no binding for (memory, Redis)
   * and the outbox, which does not know its broker, write as `kafka`.
   */
  readonly binding?: Binding | undefined
  /** A message that is no event: it is poison, or its body is read without attributes. Default: `refuse`. */
  readonly missing?: "refuse" | "read" | undefined
  /** The largest body in structured mode, in bytes; an integer from 1. Default: 16 MiB. */
  readonly maximumBytes?: number | undefined
}

/** Computes an attribute from the value that the codec encodes, and from the message around it; undefined leaves it out. */
export interface Computed {
  (value: unknown, metadata: PayloadCodec.Metadata): string | undefined
}

/** Options of `codec`. */
export interface Options extends ModeOptions {
  /** The context in which events happen, a URI reference, e.g. `/orders`. */
  readonly source: string | Computed
  /** The type of events, e.g. `com.example.order.placed`. */
  readonly type: string | Computed
  /** Unique within its source. Default: the header `message-id` of the publish, else a new UUID (version 7). */
  readonly id?: Computed | undefined
  /** Default: none. */
  readonly subject?: string | Computed | undefined
  /** `now`, `none`, or a time of RFC 3339. Default: `now`, the time of the publish. */
  readonly time?: "now" | "none" | Computed | undefined
  /** A URI. Default: none. */
  readonly dataschema?: string | Computed | undefined
  /**
   * Extension attributes: names of 1 to 20 small letters and digits. `correlationid` and `causationid` are added from the
   * headers of the publish. Default: none.
   */
  readonly extensions?:
    | Readonly<Record<string, string>>
    | ((value: unknown, metadata: PayloadCodec.Metadata) => Readonly<Record<string, string>>)
    | undefined
}

/** The defaults of the options. */
export const defaults: {
  readonly mode: "binary"
  readonly missing: "refuse"
  readonly time: "now"
  readonly maximumBytes: number
} = { mode: "binary", missing: "refuse", time: "now", maximumBytes: Bounds.defaults.maximumBytes }

const name = "CloudEvents"

// in small letters, which some readers ask for
const eventType = "application/cloudevents+json"
const structuredType = `${eventType}; charset=utf-8`

const poison = (message: string): Exit.Exit<never, PayloadCodec.PayloadError> =>
  Exit.fail(PayloadCodec.poison({ codec: name, message }))

const refusedBy = (
  error: unknown,
  make: (told: PayloadCodec.Told) => PayloadCodec.PayloadError
): Exit.Exit<never, PayloadCodec.PayloadError> => {
  if (error instanceof Parts.CloudEventsError) return Exit.fail(make({ codec: name, message: error.message }))
  throw error
}

/** Whether a content type names an event format: `event` is the JSON format, `other` any other, or a batch. */
const formatOf = (contentType: string | undefined): "event" | "other" | undefined => {
  if (contentType === undefined || !/^\s*application\/cloudevents/i.test(contentType)) return undefined
  return Structured.mediaOf(contentType) === eventType ? "event" : "other"
}

/** The attributes that were read from a body, by the bytes of the body. */
const known = new WeakMap<Uint8Array, Attributes>()

interface Read {
  readonly attributes: Attributes | undefined
  readonly data: Structured.Data
}

/** The message around a body, as far as its event needs it. */
interface Around {
  readonly headers: Headers.Headers
  readonly system: string
}

const readEvent = (bytes: Uint8Array, { headers, system }: Around, most: number): Read => {
  const format = formatOf(headers["content-type"])
  if (format === "other") {
    throw new Parts.CloudEventsError("The body is a batch, or in an event format other than JSON, which is not read")
  }
  if (format === "event") {
    if (bytes.length > most) throw new Parts.CloudEventsError(`The body is larger than ${most} bytes`)
    const { all, data } = Structured.parse(bytes)
    const attributes = Parts.attributesOf(all)
    known.set(bytes, attributes)
    return { attributes, data }
  }
  const all = Bindings.readHeaders(headers, Bindings.bindingOf(system))
  const attributes = all && Parts.attributesOf(all)
  return { attributes, data: { _tag: "bytes", bytes } }
}

/** The media types of binary events, whose data the codec reads. */
const acceptedAs = (contentType: string | undefined, isJson: boolean): ReadonlyArray<string> => {
  if (contentType === undefined) return ["*"]
  return isJson ? ["application/json", "application/*+json"] : [eventType, contentType]
}

/** An event before it is written. */
interface Draft {
  readonly attributes: Attributes
  readonly value: unknown
  readonly hasData: boolean
}

/** The way between a payload and an event. */
interface Shape {
  readonly draft: (
    value: unknown,
    metadata: PayloadCodec.Metadata,
    contentType: string | undefined
  ) => Effect.Effect<Draft, PayloadCodec.PayloadError>
  readonly payload: (attributes: Attributes | undefined, value: unknown, hasData: boolean) => unknown
}

const encoder = new TextEncoder()
const nothing = new Uint8Array(0)

const make = <R>(
  given: Channel.Codec | PayloadCodec.PayloadCodec<R>,
  options: ModeOptions,
  shape: Shape
): PayloadCodec.PayloadCodec<R> => {
  const inner = PayloadCodec.of<R>(given)
  const [first] = inner.transforms
  if (first !== undefined) {
    throw new RangeError(
      `CloudEvents: the codec has transforms (${first.name}), which belong around the event: PayloadCodec.through(CloudEvents.codec(…), […])`
    )
  }
  const check = OptionCheck.make(name)
  const mode = check.oneOf("mode", options.mode ?? defaults.mode, ["binary", "structured"])
  const missing = check.oneOf("missing", options.missing ?? defaults.missing, ["refuse", "read"])
  const most = check.count("maximumBytes", options.maximumBytes ?? defaults.maximumBytes)
  const fixed = options.binding === undefined
    ? undefined
    : check.oneOf("binding", options.binding, Bindings.bindings)
  const isJsonInner = inner.contentType !== undefined && Structured.isJson(Structured.mediaOf(inner.contentType))
  const isPlainJson = inner.plain?.contentType === "application/json" && inner.values === "json"

  const written = (
    attributes: Attributes,
    metadata: PayloadCodec.Metadata,
    encoded: PayloadCodec.Encoded | undefined
  ) => {
    const all = Parts.flatOf(attributes)
    const { fields, headers } = Bindings.writeHeaders(all, fixed ?? Bindings.bindingOf(metadata.system))
    const type = mode === "structured" ? structuredType : attributes.datacontenttype
    return {
      bytes: mode === "structured" ? Structured.write(all, encoded?.bytes) : encoded?.bytes ?? nothing,
      headers: { ...encoded?.headers, ...headers, ...(type === undefined ? undefined : { "content-type": type }) },
      fields: [...encoded?.fields ?? [], ...fields]
    }
  }

  const encode = (value: unknown, metadata: PayloadCodec.Metadata) => {
    const header = metadata.headers["content-type"]
    const contentType = header === undefined || formatOf(header) !== undefined ? inner.contentType : header
    return Effect.flatMapEager(
      shape.draft(value, metadata, contentType),
      ({ attributes, hasData, value: data }): Effect.Effect<PayloadCodec.Encoded, PayloadCodec.PayloadError, R> => {
        try {
          Parts.attributesOf(Parts.flatOf(attributes))
          Parts.checkWritten(attributes)
          return hasData
            ? Effect.mapEager(inner.encode(data, metadata), (encoded) => written(attributes, metadata, encoded))
            : Exit.succeed(written(attributes, metadata, undefined))
        } catch (error) {
          return refusedBy(error, PayloadCodec.validation)
        }
      }
    )
  }

  const valueOf = (
    attributes: Attributes | undefined,
    data: Structured.Data,
    metadata: PayloadCodec.Metadata
  ): Effect.Effect<unknown, PayloadCodec.PayloadError, R> => {
    const type = attributes?.datacontenttype
    if (
      data._tag !== "none" && type !== undefined && inner.contentType !== undefined &&
      Structured.isJson(Structured.mediaOf(type)) !== isJsonInner
    ) {
      return poison(`The data is ${isJsonInner ? "not JSON" : "JSON"}, and its codec reads ${inner.contentType}`)
    }
    switch (data._tag) {
      case "none":
        return Exit.succeed(undefined)
      case "json":
        return isPlainJson
          ? Exit.succeed(data.value)
          : inner.decode(encoder.encode(JSON.stringify(data.value)), metadata)
      case "bytes":
        return inner.decode(data.bytes, metadata)
    }
  }

  const decode = (bytes: Uint8Array, metadata: PayloadCodec.Metadata) => {
    let event: Read
    try {
      event = readEvent(bytes, metadata, most)
    } catch (error) {
      return refusedBy(error, PayloadCodec.poison)
    }
    const { attributes } = event
    if (attributes === undefined && missing === "refuse") {
      return poison(
        "The message is no event: it has neither the headers of an event nor the content type application/cloudevents+json"
      )
    }
    // JSON has no empty text: the event has no data
    const data: Structured.Data = isJsonInner && event.data._tag === "bytes" && event.data.bytes.length === 0
      ? { _tag: "none" }
      : event.data
    return Effect.mapEager(
      valueOf(attributes, data, metadata),
      (value) => shape.payload(attributes, value, data._tag !== "none")
    )
  }

  return PayloadCodec.make<R>({
    name: `${name} of ${inner.name}`,
    contentType: mode === "structured" ? structuredType : inner.contentType,
    accepts: mode === "binary" ? [eventType] : acceptedAs(inner.contentType, isJsonInner),
    values: inner.values,
    encode,
    decode
  })
}

/** The attributes of the flow that the publish belongs to. */
const linksOf = ({ headers }: PayloadCodec.Metadata): Record<string, string> => {
  const links: Record<string, string> = Object.create(null)
  const correlation = headers[Correlation.names.flow] ?? headers[Correlation.names.correlation]
  const causation = headers[Correlation.names.causation]
  if (correlation !== undefined && correlation !== "") links["correlationid"] = correlation
  if (causation !== undefined && causation !== "") links["causationid"] = causation
  return links
}

const computed = (
  attribute: string | Computed | undefined,
  value: unknown,
  metadata: PayloadCodec.Metadata
): string | undefined => typeof attribute === "function" ? attribute(value, metadata) : attribute

/** The clock and the source of random numbers, which give time and id. */
const sources = (): Effect.Effect<readonly [Clock.Clock, Random.Random]> =>
  Effect.flatMapEager(
    Eager.service(Clock.Clock),
    (clock) => Effect.mapEager(Eager.service(Random.Random), (random) => [clock, random] as const)
  )

/**
 * Makes a codec that writes the payloads of another codec as the data of events, and reads the data of events.
 *
 * The handler gets the data; `attributes` reads the attributes of its message. Functions of the options see the value that the
 * codec encodes, so after the channel's schema: `event` has typed attributes in the payload instead. Transforms stand around it.
 *
 * Errors: `DecodeError` of class `poison` for a message that is no event, a version other than 1.0, an attribute that is missing
 * or not valid, a batch, another event format, and JSON where the codec reads something else; and those of the codec.
 * `EncodeError` when an attribute is not valid. Unknown headers and members whose names are no attribute names are passed over.
 *
 * Source: CloudEvents 1.0.2 with its JSON format and its bindings of Kafka, HTTP, AMQP and MQTT; headers on NATS follow HTTP.
 *
 * @example
 * ```ts
 * import { Channel } from "@millrace/core"
 * import { CloudEvents } from "@millrace/codecs"
 * import { Schema } from "effect"
 *
 * const Order = Schema.Struct({ id: Schema.String, amount: Schema.Number })
 * const Orders = Channel.make("orders", {
 *   payload: Order,
 *   codec: CloudEvents.codec(Channel.json, { source: "/shop", type: "com.example.order.placed" })
 * })
 * ```
 *
 * @throws RangeError when an option is wrong, or the codec has transforms
 * @category constructors
 */
export const codec = <R = never>(
  inner: Channel.Codec | PayloadCodec.PayloadCodec<R>,
  options: Options
): PayloadCodec.PayloadCodec<R> => {
  const { dataschema, extensions, id, source, subject, time = defaults.time, type } = options
  const draft: Shape["draft"] = (value, metadata, contentType) =>
    Effect.mapEager(sources(), ([clock, random]) => {
      const now = clock.currentTimeMillisUnsafe()
      const given = id === undefined ? metadata.headers[Correlation.names.message] : id(value, metadata)
      const at = time === "now"
        ? DateTime.formatIso(DateTime.makeUnsafe(now))
        : time === "none"
        ? undefined
        : time(value, metadata)
      return {
        attributes: {
          specversion: "1.0",
          id: given ?? Correlation.uuidV7(now, random),
          source: computed(source, value, metadata) ?? "",
          type: computed(type, value, metadata) ?? "",
          subject: computed(subject, value, metadata),
          time: at,
          datacontenttype: contentType,
          dataschema: computed(dataschema, value, metadata),
          extensions: {
            ...linksOf(metadata),
            ...(typeof extensions === "function" ? extensions(value, metadata) : extensions)
          }
        },
        value,
        hasData: value !== undefined
      }
    })
  return make(inner, options, { draft, payload: (_attributes, value) => value })
}

const attributeFields = {
  id: Schema.NonEmptyString,
  source: Schema.NonEmptyString,
  type: Schema.NonEmptyString,
  subject: Schema.optionalKey(Schema.NonEmptyString),
  time: Schema.optionalKey(Schema.NonEmptyString),
  datacontenttype: Schema.optionalKey(Schema.NonEmptyString),
  dataschema: Schema.optionalKey(Schema.NonEmptyString),
  extensions: Schema.optionalKey(Schema.Record(Schema.String, Schema.String))
}

/**
 * Makes the schema of an event: its attributes, and `data` of the given schema; for a channel whose codec is `event`.
 *
 * `data` may be missing where its schema is `Schema.optionalKey`. `datacontenttype` is read, and written by the codec.
 *
 * @example
 * ```ts
 * import { Channel } from "@millrace/core"
 * import { CloudEvents } from "@millrace/codecs"
 * import { Schema } from "effect"
 *
 * const Orders = Channel.make("orders", {
 *   payload: CloudEvents.Event(Schema.Struct({ amount: Schema.Number })),
 *   codec: CloudEvents.event(Channel.json),
 *   key: (event) => event.subject
 * })
 * ```
 *
 * @category schemas
 */
export const Event = <S extends Schema.Constraint>(data: S) => Schema.Struct({ ...attributeFields, data })

const isRecord = (value: unknown): value is { readonly [name: string]: unknown } =>
  typeof value === "object" && value !== null

const textIn = (event: { readonly [name: string]: unknown }, attribute: string): string | undefined => {
  const value = event[attribute]
  return typeof value === "string" ? value : undefined
}

const drafted = (value: unknown, metadata: PayloadCodec.Metadata, contentType: string | undefined): Draft => {
  if (!isRecord(value)) throw new TypeError(`an event is needed, got ${typeof value}`)
  const { extensions } = value
  const own = Object.entries(isRecord(extensions) ? extensions : {})
    .filter((pair): pair is [string, string] => typeof pair[1] === "string")
  return {
    attributes: {
      specversion: "1.0",
      id: textIn(value, "id") ?? "",
      source: textIn(value, "source") ?? "",
      type: textIn(value, "type") ?? "",
      subject: textIn(value, "subject"),
      time: textIn(value, "time"),
      datacontenttype: contentType,
      dataschema: textIn(value, "dataschema"),
      extensions: { ...linksOf(metadata), ...Object.fromEntries(own) }
    },
    value: value["data"],
    hasData: value["data"] !== undefined
  }
}

const whole = (attributes: Attributes | undefined, data: unknown, hasData: boolean): unknown => {
  const { extensions = {}, specversion: _version, ...own } = attributes ?? {}
  return {
    ...own,
    ...(Object.keys(extensions).length === 0 ? undefined : { extensions: { ...extensions } }),
    ...(hasData ? { data } : undefined)
  }
}

/**
 * Makes a codec whose payload is the event itself: its attributes, and the value of another codec in `data`; see `Event`.
 *
 * Publishers give every attribute, the id too, and handlers get them typed. Errors and modes are those of `codec`.
 *
 * @throws RangeError when an option is wrong, or the codec has transforms
 * @category constructors
 */
export const event = <R = never>(
  inner: Channel.Codec | PayloadCodec.PayloadCodec<R>,
  options: ModeOptions = {}
): PayloadCodec.PayloadCodec<R> =>
  make(inner, options, {
    draft: (value, metadata, contentType) => Exit.succeed(drafted(value, metadata, contentType)),
    payload: whole
  })

/**
 * Returns the attributes of the event that a message or a request carries; undefined when it carries none, or none that is valid.
 *
 * Those of structured events are found in the body, so they are undefined where a transform has changed it: `event` has them
 * there, too. A request has its body after `Body` has read it.
 */
export const attributes = (message: Envelope): Attributes | undefined => {
  const isMessage = message instanceof Message
  const bytes = isMessage ? message.raw : message.body ?? nothing
  const found = known.get(bytes)
  if (found !== undefined) return found
  const system = isMessage ? message.delivery.origin.system : "http"
  try {
    return readEvent(bytes, { headers: message.headers, system }, defaults.maximumBytes).attributes
  } catch {
    return undefined
  }
}

/**
 * Returns the headers of an event in binary mode for a protocol, with `content-type`: for a request or an answer of HTTP, whose
 * body is the data, and for `Sink`.
 *
 * @throws CloudEventsError when an attribute is not valid
 */
export const headers = (event: Attributes, binding: Binding): Headers.Headers => {
  const all = Parts.flatOf(event)
  Parts.checkWritten(Parts.attributesOf(all))
  const { fields, headers } = Bindings.writeHeaders(all, binding)
  const type = event.datacontenttype === undefined ? undefined : { "content-type": event.datacontenttype }
  const named = fields.map(([field, value]) => [field, new TextDecoder().decode(value ?? nothing)])
  return { ...headers, ...Object.fromEntries(named), ...type }
}
