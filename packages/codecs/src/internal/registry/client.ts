/** The four requests to a registry with Confluent's API, each with a time limit, and the failure of each answer. */
import { boundedText } from "@millrace/core/boundedText"
import { manualRedirects, redirects } from "@millrace/core/manualRedirects"
import { PayloadCodec } from "@millrace/core"
import { Duration, Effect, Redacted } from "effect"
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
  readonly schemaType: string
  readonly schema: string
  readonly references: ReadonlyArray<string>
}

/** A reference from one schema to another. */
export interface Reference {
  /** The name in the schema's text. */
  readonly name: string
  readonly subject: string
  /** From 1. */
  readonly version: number
}

/** A schema as a registry takes it. */
export interface Unregistered {
  readonly schemaType: string
  readonly schema: string
  readonly references: ReadonlyArray<Reference>
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
    address.pathname = `${url.pathname.replace(/\/$/, "")}/${path}`
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
      Effect.flatMap((answer) => this.usable(answer))
    )
  }

  /** Fails for answers that say nothing about a schema. Others have an object of JSON, with an error code beyond 2xx. */
  private usable(answer: Answer): Effect.Effect<Answer, Failed> {
    const { json, retryAfter, status } = answer
    if (status === 401 || status === 403) {
      return Effect.fail(
        this.down(`refuses the credentials (status ${status}): correct auth`, undefined, undefined, "unauthorized")
      )
    }
    if (redirects.has(status)) return Effect.fail(this.down(`redirects (status ${status}): correct url`))
    const seconds = /^\d{1,5}$/.test(retryAfter ?? "") ? Math.max(Number(retryAfter), 1) : undefined
    const isAboutSchema = json !== undefined && (status === 200 || typeof json["error_code"] === "number")
    return status === 429 || status >= 500 || !isAboutSchema
      ? Effect.fail(
        this.down(
          status === 200 || (status >= 400 && status < 500 && status !== 429)
            ? `answers with something else (status ${status}): correct url`
            : `fails (status ${status})`,
          seconds === undefined ? undefined : Duration.seconds(seconds)
        )
      )
      : Effect.succeed(answer)
  }

  private odd(): Failed {
    return this.down("answers with something that is no schema: correct url")
  }

  /** Reads the schema of an id, and all that it names. */
  byId(id: number): Effect.Effect<Registered, Failed> {
    return Effect.flatMap(this.ask(`schemas/ids/${id}`), ({ json, status }) => {
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

  /** Returns the id of a schema under a subject; registers it only if `register` says so. */
  idOf(subject: string, schema: Unregistered, register: boolean): Effect.Effect<number, Failed> {
    const path = `subjects/${encodeURIComponent(subject)}`
    const { references, schemaType } = schema
    const body = {
      schema: schema.schema,
      // older registries know no other type
      ...(schemaType === "AVRO" ? {} : { schemaType }),
      ...(references.length === 0 ? {} : { references })
    }
    const refused = (reason: Reason, why: string) =>
      failure("permanent", reason, `The schema registry at ${this.settings.url.host} ${why}`)
    return Effect.flatMap(this.ask(register ? `${path}/versions` : path, body), ({ json, status }) => {
      const id = json?.["id"]
      if (status === 200 && typeof id === "number" && Number.isInteger(id) && id >= 0 && id < 2 ** 32) {
        return Effect.succeed(id)
      }
      if (status === 404) {
        return Effect.fail(
          refused("unregistered", `has no such schema under ${subject}: register it there, or set register to true`)
        )
      }
      if (status === 409) {
        return Effect.fail(refused("incompatible", `refuses the schema: it is not compatible with ${subject}`))
      }
      return Effect.fail(
        status === 422 ? refused("invalidSchema", `refuses the schema for ${subject} as invalid`) : this.odd()
      )
    })
  }
}
