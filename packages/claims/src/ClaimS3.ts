/**
 * Stores claims in a bucket, by the protocol of Amazon S3.
 */
import { boundedText } from "@millrace/core/boundedText"
import { OptionCheck } from "@millrace/core"
import { Duration, Effect, Layer, Stream } from "effect"
import { HttpClient, type HttpClientResponse } from "effect/http"
import { ClaimStoreUnavailable, Store } from "./ClaimStore.ts"
import { digestOf } from "./internal/digest.ts"
import { nameOf } from "./internal/options.ts"
import { rechunk } from "./internal/rechunk.ts"
import { Client, noPayload } from "./internal/s3/client.ts"
import { held } from "./internal/s3/credentials.ts"
import type { Credentials } from "./internal/s3/signature.ts"

export { type Credentials } from "./internal/s3/signature.ts"

/** Options of `layer`. */
export interface Options {
  readonly bucket: string
  /** The region of the bucket, e.g. `eu-central-1`. */
  readonly region: string
  /** Constant credentials, or an Effect that obtains them; it runs again one minute before they end. */
  readonly credentials: Credentials | Effect.Effect<Credentials, unknown>
  /** The beginning of each key, e.g. `claims/`. A reference names no object outside of it. Default: none. */
  readonly prefix?: string | undefined
  /** The address of a server other than Amazon's, with the bucket in its paths, e.g. `http://127.0.0.1:9000`. Default: Amazon's. */
  readonly endpoint?: string | URL | undefined
  /** The name in references, from 1 to 100 characters, the same in all programs. Default: `BUCKET/PREFIX`. */
  readonly name?: string | undefined
  /** The bytes of a part of a streamed body, two of which are in memory; 5 MiB to 1 GiB. A body has 10,000 parts at most. Default: 8 MiB. */
  readonly partBytes?: number | undefined
  /** The longest time of one request until its answer begins, the upload of a part included; from 1 ms. Default: 20 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** How often a request is sent while the server is busy or out of reach; an integer from 1. Default: 3. */
  readonly attempts?: number | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: { readonly partBytes: number; readonly timeout: Duration.Duration; readonly attempts: number } =
  {
    partBytes: 8 * 1024 * 1024,
    timeout: Duration.seconds(20),
    attempts: 3
  }

const module = "ClaimS3"

const mebi = 1024 * 1024

/** The bytes of an answer that is an XML document. */
const mostXml = 65_536

const originOf = (bucket: string, region: string, endpoint: string | URL | undefined) => {
  if (endpoint !== undefined) {
    const url = URL.canParse(String(endpoint)) ? new URL(endpoint) : undefined
    if (url === undefined || !/^https?:$/.test(url.protocol) || url.pathname !== "/" || url.search !== "") {
      throw new RangeError(`${module}: endpoint must be an address of http or https without a path`)
    }
    return { origin: url, base: `/${bucket}` }
  }
  // a certificate of Amazon covers no bucket with a dot
  return bucket.includes(".")
    ? { origin: new URL(`https://s3.${region}.amazonaws.com`), base: `/${bucket}` }
    : { origin: new URL(`https://${bucket}.s3.${region}.amazonaws.com`), base: "" }
}

/** The first `most` bytes of a stream. */
const first = <E>(stream: Stream.Stream<Uint8Array, E>, most: number): Effect.Effect<Uint8Array, E> =>
  Effect.suspend(() => {
    const parts: Array<Uint8Array> = []
    let seen = 0
    const some = Stream.takeWhile(stream, (part) => {
      parts.push(part)
      seen += part.length
      return seen < most
    })
    return Effect.map(Stream.runDrain(some), () => {
      const body = Buffer.concat(parts)
      return body.length > most ? body.subarray(0, most) : body
    })
  })

/** Whether an answer says that it is no longer; one with a coding is restored by the client, and may become longer. */
const isAtMost = ({ headers }: HttpClientResponse.HttpClientResponse, most: number): boolean =>
  headers["content-encoding"] === undefined && Number(headers["content-length"] ?? Infinity) <= most

const whole = (response: HttpClientResponse.HttpClientResponse) =>
  Effect.map(response.arrayBuffer, (buffer) => new Uint8Array(buffer))

const escaped = (text: string): string => text.replace(/[&<>]/g, (found) => `&#${found.charCodeAt(0)};`)

const make = (client: Client, name: string, prefix: string, partBytes: number): Store["Service"] => {
  const broken = (cause: unknown) =>
    cause instanceof ClaimStoreUnavailable
      ? cause
      : new ClaimStoreUnavailable({ message: `The store ${name} broke off an answer`, cause })
  const odd = (what: string) => new ClaimStoreUnavailable({ message: `The store ${name} ${what}` })

  const uploaded = (
    key: string,
    body: Uint8Array,
    query?: ReadonlyArray<readonly [string, string]>,
    sha256?: string
  ) =>
    Effect.flatMap(
      Effect.flatMap(
        sha256 === undefined ? digestOf(body) : Effect.succeed(sha256),
        (payload) => client.ask({ method: "PUT", key, body, payload, query })
      ),
      (response) =>
        response === undefined ? Effect.fail(odd("does not know the upload any more")) : Effect.succeed(response)
    )

  /** An upload by parts: nothing is visible before `complete`. */
  const begin = (key: string) =>
    Effect.gen(function*() {
      const begun = yield* client.ask({ method: "POST", key, query: [["uploads", ""]], payload: noPayload })
      const text = begun === undefined ? "" : yield* Effect.mapError(boundedText(begun, mostXml, "too long"), broken)
      const id = /<UploadId>([^<]{1,1024})<\/UploadId>/.exec(text)?.[1]
      if (id === undefined) return yield* Effect.fail(odd("began no upload"))
      const tags: Array<string> = []
      return {
        append: (part: Uint8Array) =>
          Effect.flatMap(
            Effect.suspend(() => uploaded(key, part, [["partNumber", `${tags.length + 1}`], ["uploadId", id]])),
            ({ headers }) => {
              const tag = headers["etag"]
              if (tag === undefined) return Effect.fail(odd("confirmed a part without its tag"))
              tags.push(tag)
              return Effect.void
            }
          ),
        complete: Effect.suspend(() => {
          const parts = tags.map((tag, i) =>
            `<Part><PartNumber>${i + 1}</PartNumber><ETag>${escaped(tag)}</ETag></Part>`
          )
          const body = new TextEncoder().encode(`<CompleteMultipartUpload>${parts.join("")}</CompleteMultipartUpload>`)
          return Effect.gen(function*() {
            const payload = yield* digestOf(body)
            const done = yield* client.ask({ method: "POST", key, query: [["uploadId", id]], body, payload })
            const text = done === undefined
              ? ""
              : yield* Effect.mapError(boundedText(done, mostXml, "too long"), broken)
            // a failure after the first byte of the answer has status 200
            if (!text.includes("CompleteMultipartUploadResult")) {
              return yield* Effect.fail(odd("did not complete an upload"))
            }
          })
        }),
        abort: Effect.ignore(client.ask({ method: "DELETE", key, query: [["uploadId", id]], payload: noPayload }))
      }
    })

  const writeStream = <E, R>(key: string, body: Stream.Stream<Uint8Array, E, R>) =>
    Effect.suspend(() => {
      let only: Uint8Array | undefined
      let upload: Effect.Success<ReturnType<typeof begin>> | undefined
      const append = (part: Uint8Array): Effect.Effect<void, ClaimStoreUnavailable> => {
        if (upload !== undefined) return upload.append(part)
        if (only === undefined) {
          only = part
          return Effect.void
        }
        const before = only
        return Effect.flatMap(begin(key), (begun) => {
          upload = begun
          return Effect.andThen(begun.append(before), begun.append(part))
        })
      }
      return Effect.onError(
        Effect.andThen(
          Stream.runForEach(rechunk(partBytes)(body), append),
          Effect.suspend((): Effect.Effect<void, ClaimStoreUnavailable> =>
            upload === undefined ? Effect.asVoid(uploaded(key, only ?? new Uint8Array(0))) : upload.complete
          )
        ),
        () => upload === undefined ? Effect.void : upload.abort
      )
    })

  return {
    name,
    write: (key, body, sha256) => Effect.asVoid(uploaded(`${prefix}${key}`, body, undefined, sha256)),
    writeStream: (key, body) => writeStream(`${prefix}${key}`, body),
    read: (key, most) =>
      Effect.flatMap(
        client.ask({ method: "GET", key: `${prefix}${key}`, payload: noPayload }),
        (response) =>
          response === undefined
            ? Effect.undefined
            : Effect.mapError(isAtMost(response, most) ? whole(response) : first(response.stream, most), broken)
      ),
    open: (key, offset) => {
      const headers = offset === 0 ? {} : { range: `bytes=${offset}-` }
      return Effect.flatMap(
        client.ask({ method: "GET", key: `${prefix}${key}`, headers, payload: noPayload }, [416]),
        (response) => {
          if (response === undefined) return Effect.undefined
          // the offset is the end of the body
          if (response.status === 416) return Effect.succeed(Stream.empty)
          return offset > 0 && response.status !== 206
            ? Effect.fail(odd("ignores ranges"))
            : Effect.succeed(Stream.mapError(response.stream, broken))
        }
      )
    },
    prune: undefined
  }
}

/**
 * Provides a store in a bucket of Amazon S3, or of a server with its protocol.
 *
 * Provides `ClaimStore.Store` and needs an `HttpClient`. Requests have Signature Version 4 and the SHA-256 of their body, which the server
 * compares. A streamed body is uploaded by parts and visible when all are there. Requests go to the bucket's address alone: a
 * redirect is not followed.
 *
 * The bucket removes bodies: give it a lifecycle rule for the prefix whose `Expiration` is a day more than the life of messages, dead
 * letters and unsent rows of an outbox, and an `AbortIncompleteMultipartUpload` of some days. Publishers need `s3:PutObject` and
 * `s3:AbortMultipartUpload`, readers `s3:GetObject`, and `s3:ListBucket` for a missing body to be told from a forbidden one.
 *
 * A server that is out of reach, busy, redirects, or refuses the credentials or the permission is `ClaimStoreUnavailable`, after `attempts`
 * where a later one may succeed: no message becomes a dead letter for it.
 *
 * **Example** (a bucket of Amazon S3)
 *
 * ```ts
 * import { ClaimS3 } from "@millrace/claims"
 * import { Effect, Layer } from "effect"
 * import { FetchHttpClient } from "effect/http"
 *
 * const credentials = Effect.succeed({ accessKeyId: "AKIDEXAMPLE", secretAccessKey: "a secret" })
 *
 * const store = ClaimS3.layer({ bucket: "shop-bodies", prefix: "claims/", region: "eu-central-1", credentials }).pipe(
 *   Layer.provide(FetchHttpClient.layer)
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Store, never, HttpClient.HttpClient> => {
  const check = OptionCheck.make(module)
  const { bucket, prefix = "", region } = options
  if (!/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(bucket)) {
    throw new RangeError(`${module}: bucket must be the name of a bucket, got ${JSON.stringify(bucket)}`)
  }
  if (!/^[a-z0-9-]+$/.test(region)) {
    throw new RangeError(`${module}: region must be a name such as eu-central-1, got ${JSON.stringify(region)}`)
  }
  if (prefix.startsWith("/") || !/^[\w./=-]{0,512}$/.test(prefix) || /(?:^|\/)\.{1,2}(?:\/|$)|\/\//.test(prefix)) {
    throw new RangeError(`${module}: prefix must be folders such as claims/, got ${JSON.stringify(prefix)}`)
  }
  const name = nameOf(module, options.name ?? `${bucket}/${prefix}`)
  const partBytes = check.count("partBytes", options.partBytes ?? defaults.partBytes, {
    least: 5 * mebi,
    most: 1024 * mebi
  })
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  const attempts = check.count("attempts", options.attempts ?? defaults.attempts)
  const credentials = held(module, options.credentials)
  const settings = { ...originOf(bucket, region, options.endpoint), name, region, timeout, attempts }
  return Layer.effect(
    Store,
    Effect.map(
      HttpClient.HttpClient,
      (http) => make(new Client(http, credentials, settings), name, prefix, partBytes)
    )
  )
}
