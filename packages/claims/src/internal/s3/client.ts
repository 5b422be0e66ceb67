/** Requests to a bucket: signed, limited in time, repeated where the server is busy, and never redirected. */
import { boundedText } from "@millrace/core/boundedText"
import { manualRedirects, redirects } from "@millrace/core/manualRedirects"
import { Clock, Effect } from "effect"
import { type HttpClient, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { ClaimStoreUnavailable } from "../../ClaimStore.ts"
import type { Held } from "./credentials.ts"
import { encode, queryOf } from "@millrace/core/awsSignature"
import { sign } from "./signature.ts"

/** Where the bucket is. */
export interface Settings {
  /** The name of the store in errors. */
  readonly name: string
  /** The origin of requests, with the bucket as a host name or without. */
  readonly origin: URL
  /** The beginning of each path: the bucket, or nothing. */
  readonly base: string
  readonly region: string
  /** Milliseconds until the answer to a request begins. */
  readonly timeout: number
  /** How often a request is sent at most. */
  readonly attempts: number
}

/** A request to one object. */
export interface Asked {
  readonly method: "GET" | "PUT" | "POST" | "DELETE"
  readonly key: string
  readonly query?: ReadonlyArray<readonly [string, string]> | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body?: Uint8Array | undefined
  /** SHA-256 of the body in hexadecimal. */
  readonly payload: string
}

/** SHA-256 of no bytes. */
export const noPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

/** The most bytes of an error's text. */
const mostText = 16_384

const codeIn = (text: string): string => /<Code>([A-Za-z0-9.]{1,64})<\/Code>/.exec(text)?.[1] ?? ""

/** An answer that is no success, with the code of its text. */
interface Refusal {
  readonly status: number
  readonly code: string
}

const expired = new Set(["ExpiredToken", "InvalidToken", "TokenRefreshRequired"])

const advice = ({ code, status }: Refusal): string => {
  if (redirects.has(status)) return "the bucket is elsewhere: correct region or endpoint"
  if (code === "NoSuchBucket") return "there is no such bucket"
  if (code === "SignatureDoesNotMatch" || code === "InvalidAccessKeyId" || status === 401) {
    return "the credentials are refused"
  }
  if (code === "RequestTimeTooSkewed") return "the clock of this machine is wrong"
  if (status === 403) {
    return "permission is denied; without s3:ListBucket, S3 also says this of an object that is missing"
  }
  return status === 429 || status === 503 ? "it is busy" : "it answers with something unexpected"
}

/** Requests to one bucket. */
export class Client {
  private readonly http: HttpClient.HttpClient
  private readonly credentials: Held
  private readonly settings: Settings

  constructor(http: HttpClient.HttpClient, credentials: Held, settings: Settings) {
    this.http = http
    this.credentials = credentials
    this.settings = settings
  }

  private down(why: string, cause?: unknown): ClaimStoreUnavailable {
    const { name, origin } = this.settings
    return new ClaimStoreUnavailable({ message: `The store ${name} at ${origin.host}: ${why}`, cause })
  }

  /** Sends a request, and returns a successful answer or one of `accepted`; undefined if there is no such key. */
  ask(
    asked: Asked,
    accepted: ReadonlyArray<number> = []
  ): Effect.Effect<HttpClientResponse.HttpClientResponse | undefined, ClaimStoreUnavailable> {
    const { attempts, timeout } = this.settings
    const attempt = (
      left: number
    ): Effect.Effect<HttpClientResponse.HttpClientResponse | undefined, ClaimStoreUnavailable> => {
      const again = (error: ClaimStoreUnavailable) =>
        left > 1
          ? Effect.andThen(Effect.sleep(100 * 2 ** (attempts - left)), attempt(left - 1))
          : Effect.fail(error)
      return Effect.matchEffect(Effect.timeout(this.send(asked), timeout), {
        onFailure: (error) =>
          error instanceof ClaimStoreUnavailable ? Effect.fail(error) : again(this.down("it does not answer", error)),
        onSuccess: (response) => {
          const { status } = response
          if ((status >= 200 && status < 300) || accepted.includes(status)) return Effect.succeed(response)
          return Effect.flatMap(this.refusal(response), (refusal) => {
            if (status === 404 && refusal.code !== "NoSuchBucket") return Effect.undefined
            const error = this.down(`${advice(refusal)} (status ${status}${refusal.code && `, ${refusal.code}`})`)
            if (expired.has(refusal.code)) {
              this.credentials.forget()
              return again(error)
            }
            return status === 429 || status >= 500 ? again(error) : Effect.fail(error)
          })
        }
      })
    }
    return attempt(attempts)
  }

  private refusal(response: HttpClientResponse.HttpClientResponse): Effect.Effect<Refusal> {
    return Effect.map(
      Effect.orElseSucceed(
        Effect.timeout(boundedText(response, mostText, "too long"), this.settings.timeout),
        () => ""
      ),
      (text) => ({ status: response.status, code: codeIn(text) })
    )
  }

  private send({ body, headers = {}, key, method, payload, query = [] }: Asked) {
    const { base, origin, region } = this.settings
    const path = `${base}/${key.split("/").map(encode).join("/")}`
    const search = queryOf(query)
    const url = `${origin.origin}${path}${search === "" ? "" : `?${search}`}`
    return Effect.flatMap(
      Effect.mapError(this.credentials.get, (cause) => this.down("there are no credentials", cause)),
      (credentials) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) => {
          const unsigned = { method, path, query, headers: { ...headers, host: origin.host }, payload }
          const request = HttpClientRequest.make(method)(url, {
            headers: sign(unsigned, credentials, region, "s3", now)
          })
          return manualRedirects(
            this.http.execute(body === undefined ? request : HttpClientRequest.bodyUint8Array(request, body))
          )
        })
    )
  }
}
