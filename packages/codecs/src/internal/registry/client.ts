/** The requests to a registry with Confluent's API, each with a time limit, and the failure of each answer. */
import { boundedText } from "@millrace/core/boundedText"
import { manualRedirects, redirects } from "@millrace/core/manualRedirects"
import * as RetryAfter from "@millrace/core/retryAfter"
import { PayloadCodec } from "@millrace/core"
import { Clock, Duration, Effect, Redacted } from "effect"
import { type HttpClient, HttpClientRequest } from "effect/http"

/** The reason of a `PayloadError` of these codecs. */
export type Reason =
  | "unavailable"
  | "unauthorized"
  | "unknownSchema"
  | "unregistered"
  | "incompatible"
  | "invalidSchema"
  | "framing"
  | "body"
  | "value"

/** Makes an error of the registry's codecs. */
export const failure = (
  failure: PayloadCodec.PayloadError["failure"],
  reason: Reason,
  message: string,
  more: { readonly retryAfter?: Duration.Duration; readonly cause?: unknown } = {}
): PayloadCodec.PayloadError =>
  new PayloadCodec.PayloadError({ codec: "SchemaRegistry", failure, reason, message, ...more })

/** A registered schema, and the schemas that it names, those that others need first. */
export interface Registered {
  /** `AVRO`, `JSON` or `PROTOBUF`. */
  readonly schemaType: string
  readonly schema: string
  readonly references: ReadonlyArray<string>
}

/** The latest schema of a subject. */
export interface Latest extends Registered, Identity {}

/** The names of a registered schema in the bodies that it wrote. */
export interface Identity {
  /** From 0 to 2^32 - 1. */
  readonly id: number
  /** Undefined where the registry gives none: only registries with Confluent's API of version 8 do. */
  readonly guid: string | undefined
}

/** A reference from one schema to another. */
export interface Reference {
  /** The name in the schema's text: a type of Avro, the path of a Protobuf import, or the `$ref` of a JSON Schema. */
  readonly name: string
  readonly subject: string
  /** From 1. Default: the version that the subject has of this text. */
  readonly version?: number | undefined
  readonly schema: string
  /** The schemas that this one names. Default: none. */
  readonly references?: ReadonlyArray<Reference> | undefined
}

/** A schema as a registry takes it. */
export interface Unregistered {
  readonly schemaType: string
  readonly schema: string
  readonly references: ReadonlyArray<Reference>
}

/** The way in which a schema is looked up. */
export interface Lookup {
  /** Registers schemas that their subjects do not have. */
  readonly register: boolean
  /** The registry compares and keeps schemas in its normal form. */
  readonly normalize: boolean
}

export interface Settings {
  readonly url: URL
  readonly authorization: Redacted.Redacted<string> | undefined
  readonly timeout: number
  readonly retryAfter: Duration.Duration
}

/** Limits of an answer: a registry is another system. */
const most = { bytes: 4 * 1024 * 1024, references: 100 }

type Failed = PayloadCodec.PayloadError

interface Answer {
  readonly status: number
  readonly json: { readonly [key: string]: unknown } | undefined
  readonly retryAfter: string | undefined
}

const media = "application/vnd.schemaregistry.v1+json"

const isObject = (value: unknown): value is { readonly [key: string]: unknown } =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const parsed = (text: string): Answer["json"] => {
  try {
    const json: unknown = JSON.parse(text)
    return isObject(json) ? json : undefined
  } catch {
    return undefined
  }
}

/** Requests to one registry. */
export class Client {
  private readonly http: HttpClient.HttpClient
  private readonly settings: Settings

  constructor(http: HttpClient.HttpClient, settings: Settings) {
    this.http = http
    this.settings = settings
  }

  private down(why: string, asked = this.settings.retryAfter, cause?: unknown, reason: Reason = "unavailable"): Failed {
    return failure("dependency", reason, `The schema registry at ${this.settings.url.host} ${why}`, {
      retryAfter: asked,
      cause
    })
  }

  private ask(path: string, body?: object): Effect.Effect<Answer, Failed> {
    const { authorization, timeout, url } = this.settings
    const address = new URL(url)
    const [place = "", query = ""] = path.split("?")
    address.pathname = `${url.pathname.replace(/\/$/, "")}/${place}`
    if (query !== "") address.search = query
    const headers = {
      accept: `${media}, application/json`,
      ...(authorization === undefined ? {} : { authorization: Redacted.value(authorization) })
    }
    const request = body === undefined
      ? HttpClientRequest.get(address, { headers })
      : HttpClientRequest.bodyText(HttpClientRequest.post(address, { headers }), JSON.stringify(body), media)
    return manualRedirects(this.http.execute(request)).pipe(
      Effect.flatMap((response) =>
        Effect.map(boundedText(response, most.bytes, "an answer that is too long"), (text): Answer => ({
          status: response.status,
          json: parsed(text),
          retryAfter: response.headers["retry-after"]
        }))
      ),
      Effect.timeout(timeout),
      Effect.mapError((cause) =>
        this.down(typeof cause === "string" ? `sent ${cause}` : "does not answer", undefined, cause)
      ),
      Effect.flatMap((answer) => Effect.flatMap(Clock.currentTimeMillis, (now) => this.usable(answer, now)))
    )
  }

  /** Fails for answers that say nothing about a schema. Others have an object of JSON, with an error code beyond 2xx. */
  private usable(answer: Answer, now: number): Effect.Effect<Answer, Failed> {
    const { json, retryAfter, status } = answer
    if (status === 401 || status === 403) {
      return Effect.fail(
        this.down(`refuses the credentials (status ${status}): correct auth`, undefined, undefined, "unauthorized")
      )
    }
    if (redirects.has(status)) return Effect.fail(this.down(`redirects (status ${status}): correct url`))
    const wait = RetryAfter.parse(retryAfter, now)
    const isAboutSchema = json !== undefined && (status === 200 || typeof json["error_code"] === "number")
    return status === 429 || status >= 500 || !isAboutSchema
      ? Effect.fail(
        this.down(
          status === 200 || (status >= 400 && status < 500 && status !== 429)
            ? `answers with something else (status ${status}): correct url`
            : `fails (status ${status})`,
          wait === undefined ? undefined : Duration.max(wait, Duration.seconds(1))
        )
      )
      : Effect.succeed(answer)
  }

  private odd(): Failed {
    return this.down("answers with something that is no schema: correct url")
  }

  /** Reads the schema of an id or a GUID, and all that it names. */
  schemaOf(id: number | string): Effect.Effect<Registered, Failed> {
    const path = typeof id === "number" ? `schemas/ids/${id}` : `schemas/guids/${id}`
    return Effect.flatMap(this.ask(path), ({ json, status }) => {
      if (status === 404) {
        return Effect.fail(
          failure("poison", "unknownSchema", `The schema registry at ${this.settings.url.host} has no schema ${id}`)
        )
      }
      return status === 200 && json !== undefined ? this.complete(json) : Effect.fail(this.odd())
    })
  }

  private complete(json: { readonly [key: string]: unknown }): Effect.Effect<Registered, Failed> {
    const { schema, schemaType = "AVRO" } = json
    if (typeof schema !== "string" || typeof schemaType !== "string") return Effect.fail(this.odd())
    const found: Array<string> = []
    const asked = new Set<string>()
    const follow = (list: unknown): Effect.Effect<void, Failed> =>
      Effect.forEach(
        Array.isArray(list) ? list : [],
        (each: unknown) =>
          Effect.suspend((): Effect.Effect<void, Failed> => {
            const { subject, version } = isObject(each) ? each : {}
            if (typeof subject !== "string" || typeof version !== "number") return Effect.fail(this.odd())
            const name = `${subject} ${version}`
            // also ends at schemas that name each other
            if (asked.has(name)) return Effect.void
            asked.add(name)
            if (asked.size > most.references) return Effect.fail(this.odd())
            return Effect.flatMap(
              this.ask(`subjects/${encodeURIComponent(subject)}/versions/${version}`),
              ({ json, status }) =>
                status !== 200 || json === undefined || typeof json["schema"] !== "string"
                  ? Effect.fail(this.odd())
                  : Effect.andThen(
                    follow(json["references"]),
                    Effect.sync(() => void found.push(String(json["schema"])))
                  )
            )
          }),
        { discard: true }
      )
    return Effect.as(follow(json["references"]), { schema, schemaType, references: found })
  }

  /** Returns the names of a schema under a subject; registers it, and what it names, only if `how` says so. */
  identityOf(subject: string, schema: Unregistered, how: Lookup): Effect.Effect<Identity, Failed> {
    return this.place(subject, schema, how, "register", new Map())
  }

  /** Reads the latest schema of a subject, which must be compatible with ours by the rule of the subject. */
  latest(subject: string, schema: Unregistered): Effect.Effect<Latest, Failed> {
    const path = `subjects/${encodeURIComponent(subject)}/versions/latest`
    return Effect.flatMap(this.ask(path), ({ json, status }): Effect.Effect<Latest, Failed> => {
      if (status === 404) {
        return Effect.fail(this.refused("unregistered", `has no schema under ${subject}: register one`))
      }
      const found = identity(json)
      if (status !== 200 || json === undefined || found === undefined) return Effect.fail(this.odd())
      return Effect.flatMap(this.complete(json), (latest) =>
        latest.schema === schema.schema
          ? Effect.succeed({ ...latest, ...found })
          : Effect.as(this.compatible(subject, schema), { ...latest, ...found }))
    })
  }

  private compatible(subject: string, schema: Unregistered): Effect.Effect<void, Failed> {
    const path = `compatibility/subjects/${encodeURIComponent(subject)}/versions/latest`
    const lookup = { register: false, normalize: false }
    return Effect.flatMap(
      this.textOf(schema, lookup, new Map()),
      (body) =>
        Effect.flatMap(this.ask(path, body), ({ json, status }) => {
          if (status === 200 && json?.["is_compatible"] === true) return Effect.void
          return Effect.fail(
            status === 200 && json?.["is_compatible"] === false
              ? this.refused("incompatible", `says that the schema is not compatible with the latest of ${subject}`)
              : status === 422
              ? this.refused("invalidSchema", `refuses the schema for ${subject} as invalid`)
              : this.odd()
          )
        })
    )
  }

  private refused(reason: Reason, why: string): Failed {
    return failure("permanent", reason, `The schema registry at ${this.settings.url.host} ${why}`)
  }

  /** The schema as the API takes it, after its references have versions. */
  private textOf(schema: Unregistered, how: Lookup, versions: Map<string, number>): Effect.Effect<object, Failed> {
    const { references, schemaType } = schema
    const named = Effect.forEach(
      references,
      (each) =>
        Effect.map(this.versionOf(each, schemaType, how, versions), (version) => ({
          name: each.name,
          subject: each.subject,
          version
        }))
    )
    return Effect.map(named, (found) => ({
      schema: schema.schema,
      // older registries know no other type
      ...(schemaType === "AVRO" ? {} : { schemaType }),
      ...(found.length === 0 ? {} : { references: found })
    }))
  }

  private versionOf(
    reference: Reference,
    schemaType: string,
    how: Lookup,
    versions: Map<string, number>
  ): Effect.Effect<number, Failed> {
    const { references = [], schema, subject, version } = reference
    if (version !== undefined) return Effect.succeed(version)
    const name = `${subject}\n${schema}`
    const known = versions.get(name)
    if (known !== undefined) return Effect.succeed(known)
    return Effect.flatMap(
      this.place(subject, { schemaType, schema, references }, how, "look up", versions),
      (found) => {
        if (found.version === undefined) return Effect.fail(this.odd())
        versions.set(name, found.version)
        return Effect.succeed(found.version)
      }
    )
  }

  /** The answer to a registration has no version in most registries; `look up` asks for it afterwards. */
  private place(
    subject: string,
    schema: Unregistered,
    how: Lookup,
    end: "register" | "look up",
    versions: Map<string, number>
  ): Effect.Effect<Placed, Failed> {
    const path = `subjects/${encodeURIComponent(subject)}`
    const query = how.normalize ? "?normalize=true" : ""
    return Effect.flatMap(this.textOf(schema, how, versions), (body) => {
      const lookup = Effect.flatMap(this.ask(path + query, body), (answer) => this.placed(subject, answer))
      if (!how.register) return lookup
      const register = Effect.flatMap(
        this.ask(`${path}/versions${query}`, body),
        (answer) => this.placed(subject, answer)
      )
      return end === "register" ? register : Effect.andThen(register, lookup)
    })
  }

  private placed(subject: string, { json, status }: Answer): Effect.Effect<Placed, Failed> {
    const found = identity(json)
    if (status === 200 && found !== undefined) {
      const version = json?.["version"]
      return Effect.succeed({ ...found, version: typeof version === "number" ? version : undefined })
    }
    if (status === 404) {
      return Effect.fail(
        this.refused("unregistered", `has no such schema under ${subject}: register it there, or set register to true`)
      )
    }
    if (status === 409) {
      return Effect.fail(this.refused("incompatible", `refuses the schema: it is not compatible with ${subject}`))
    }
    return Effect.fail(
      status === 422 ? this.refused("invalidSchema", `refuses the schema for ${subject} as invalid`) : this.odd()
    )
  }
}

interface Placed extends Identity {
  readonly version: number | undefined
}

const guidForm = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i

const identity = (json: Answer["json"]): Identity | undefined => {
  const { guid, id } = json ?? {}
  return typeof id === "number" && Number.isInteger(id) && id >= 0 && id < 2 ** 32
    ? { id, guid: typeof guid === "string" && guidForm.test(guid) ? guid.toLowerCase() : undefined }
    : undefined
}
