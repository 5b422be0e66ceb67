/**
 * AWS Key Management Service for `Kms`, by its JSON protocol: `GenerateDataKey` and `Decrypt`, signed with Signature Version 4,
 * without an SDK.
 *
 * Source: https://docs.aws.amazon.com/kms/latest/APIReference/
 */
import { boundedText } from "@millrace/core/boundedText"
import { manualRedirects, redirects } from "@millrace/core/manualRedirects"
import * as RetryAfter from "@millrace/core/retryAfter"
import { Clock, Config, Duration, Effect, Layer, Option, Redacted } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import { KmsError, type KmsPort, type Reason } from "./internal/kmsPort.ts"
import { type Credentials, signed } from "./internal/sigV4.ts"
import { Service } from "./Kms.ts"

export { type Credentials } from "./internal/sigV4.ts"

/** Options of `layer`. */
export interface Options<E = never> {
  /** The region of the keys, e.g. `eu-central-1`. */
  readonly region: string
  /** Constant credentials, or an Effect that obtains them. The Effect runs for each call, so a role's rotation takes effect. */
  readonly credentials: Credentials | Effect.Effect<Credentials, E>
  /** The address of the service; https, or http on this host. Default: `https://kms.<region>.amazonaws.com`. */
  readonly endpoint?: string | URL | undefined
}

/** The longest answer, in bytes: those of the service have less than 10 KiB. */
const maximumAnswer = 64 * 1024

const media = "application/x-amz-json-1.1"

const errors: ReadonlyArray<readonly [Reason, ReadonlyArray<string>]> = [
  ["Denied", [
    "AccessDeniedException",
    "ExpiredTokenException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException"
  ]],
  ["Disabled", ["DisabledException", "KMSInvalidStateException", "InvalidKeyUsageException"]],
  ["Missing", ["NotFoundException", "InvalidArnException"]],
  ["Throttled", ["LimitExceededException", "RequestLimitExceeded", "Throttling", "ThrottlingException"]],
  ["Ciphertext", ["IncorrectKeyException", "InvalidCiphertextException"]]
]

const reasons: ReadonlyMap<string, Reason> = new Map(
  errors.flatMap(([reason, names]) => names.map((name) => [name, reason] as const))
)

const advice: { readonly [reason in Reason]: string } = {
  Denied:
    "denies the call: check the credentials, and the key's policy for kms:GenerateDataKey, kms:Decrypt and the context",
  Disabled: "has the key disabled, or without the use ENCRYPT_DECRYPT: enable it, or mark it revoked",
  Missing: "has no such key: correct keys",
  Throttled: "throttles the calls",
  Unavailable: "fails",
  Ciphertext: "refuses the wrapped key"
}

const isObject = (value: unknown): value is { readonly [name: string]: unknown } =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const parsed = (text: string): { readonly [name: string]: unknown } => {
  try {
    const json: unknown = JSON.parse(text)
    return isObject(json) ? json : {}
  } catch {
    return {}
  }
}

/** The bytes of a field in base64; undefined if it is none. */
const bytesOf = (value: unknown): Uint8Array | undefined =>
  typeof value === "string" && /^[\w+/]+={0,2}$/.test(value) ? Buffer.from(value, "base64") : undefined

interface Answer {
  readonly status: number
  readonly json: { readonly [name: string]: unknown }
  readonly type: string | undefined
  readonly retryAfter: string | undefined
}

/** The name of an error: without its namespace, and without the address that may follow it. */
const typeOf = (type: unknown): string | undefined =>
  typeof type === "string" ? /^(?:[^#]*#)?([A-Za-z]{1,64})(?::|$)/.exec(type)?.[1] : undefined

const unavailable = (message: string, cause?: unknown): KmsError =>
  new KmsError({ reason: "Unavailable", message, cause })

const failureOf = ({ json, retryAfter, status, type }: Answer, now: number): KmsError => {
  if (redirects.has(status)) return unavailable(`redirects (status ${status}): correct endpoint`)
  const name = typeOf(type ?? json["__type"])
  const reason = (name === undefined ? undefined : reasons.get(name)) ?? (status === 429 ? "Throttled" : "Unavailable")
  const wait = RetryAfter.parse(retryAfter, now)
  return new KmsError({
    reason,
    message: `${advice[reason]} (${name ?? `status ${status}`})`,
    // no wait at all would be a hot loop
    retryAfter: wait === undefined || Duration.isZero(wait) ? undefined : wait
  })
}

const addressOf = (endpoint: string | URL): URL => {
  if (!URL.canParse(String(endpoint))) {
    throw new RangeError("AwsKms: endpoint must be an address, got something else")
  }
  const address = new URL(endpoint)
  const isHere = ["localhost", "127.0.0.1", "[::1]"].includes(address.hostname)
  if (address.protocol !== "https:" && !(address.protocol === "http:" && isHere)) {
    throw new RangeError(`AwsKms: endpoint must be https, got ${address.protocol}//${address.host}`)
  }
  if (address.pathname !== "/" || address.search !== "") {
    throw new RangeError("AwsKms: endpoint must have no path and no query, got one")
  }
  return address
}

const isRegion = (region: string): boolean => /^[a-z0-9-]{1,64}$/.test(region)

const make = <E>(
  http: HttpClient.HttpClient,
  region: string,
  address: URL,
  credentials: Effect.Effect<Credentials, E>
): KmsPort => {
  const ask = (action: string, content: object): Effect.Effect<Answer, KmsError> => {
    const body = JSON.stringify(content)
    const request = (given: Credentials, now: number) =>
      HttpClientRequest.bodyText(
        HttpClientRequest.post(address, {
          headers: signed(
            {
              host: address.host,
              region,
              service: "kms",
              headers: { "content-type": media, "x-amz-target": `TrentService.${action}` },
              body
            },
            given,
            now
          )
        }),
        body,
        media
      )
    const obtained = Effect.mapError(
      credentials,
      (cause) => new KmsError({ reason: "Denied", message: "cannot be asked: there are no credentials", cause })
    )
    return Effect.flatMap(
      Effect.zip(obtained, Clock.currentTimeMillis),
      ([given, now]) =>
        manualRedirects(http.execute(request(given, now))).pipe(
          Effect.flatMap((response) =>
            Effect.map(boundedText(response, maximumAnswer, "sends an answer that is too long"), (text): Answer => ({
              status: response.status,
              json: parsed(text),
              type: response.headers["x-amzn-errortype"],
              retryAfter: response.headers["retry-after"]
            }))
          ),
          Effect.mapError((cause) => unavailable(typeof cause === "string" ? cause : "does not answer", cause)),
          Effect.flatMap((answer) =>
            answer.status === 200 ? Effect.succeed(answer) : Effect.fail(failureOf(answer, now))
          )
        )
    )
  }
  return {
    name: `AWS KMS at ${address.host}`,
    generate: (key, context) =>
      Effect.flatMap(
        ask("GenerateDataKey", { KeyId: key, KeySpec: "AES_256", EncryptionContext: context }),
        ({ json }) => {
          const plaintext = bytesOf(json["Plaintext"])
          const wrapped = bytesOf(json["CiphertextBlob"])
          return plaintext === undefined || wrapped === undefined
            ? Effect.fail(unavailable("answers without a data key"))
            : Effect.succeed({ plaintext: Redacted.make(plaintext), wrapped })
        }
      ),
    unwrap: (key, wrapped, context) =>
      Effect.flatMap(
        ask("Decrypt", {
          KeyId: key,
          CiphertextBlob: Buffer.from(wrapped).toString("base64"),
          EncryptionContext: context,
          EncryptionAlgorithm: "SYMMETRIC_DEFAULT"
        }),
        ({ json }) => {
          const plaintext = bytesOf(json["Plaintext"])
          return plaintext === undefined
            ? Effect.fail(unavailable("answers without a data key"))
            : Effect.succeed(Redacted.make(plaintext))
        }
      )
  }
}

/**
 * Makes the key management service of a region. The names of its keys in `Kms.layer` are key ids, ARNs, or aliases (`alias/orders`).
 * The calls need the permissions `kms:GenerateDataKey` (publishers) and `kms:Decrypt` (readers).
 *
 * **Example** (the credentials of a role, from AWS's own chain of providers)
 *
 * ```ts no-run
 * import { AwsKms } from "@millrace/crypto"
 * import { Effect, Redacted } from "effect"
 *
 * declare const provider: () => Promise<{ accessKeyId: string; secretAccessKey: string; sessionToken?: string }>
 *
 * const credentials = Effect.map(
 *   Effect.tryPromise(() => provider()),
 *   ({ accessKeyId, secretAccessKey, sessionToken }) => ({
 *     accessKeyId,
 *     secretAccessKey: Redacted.make(secretAccessKey),
 *     sessionToken: sessionToken === undefined ? undefined : Redacted.make(sessionToken)
 *   })
 * )
 * const kms = AwsKms.layer({ region: "eu-central-1", credentials })
 * ```
 *
 * Errors: `KmsError`, which `Kms.layer` turns into `KeysUnavailable`. No error has a key, a credential or an answer's text.
 *
 * @throws RangeError when the region or the endpoint is invalid
 * @category layers
 */
export const layer = <E = never>(options: Options<E>): Layer.Layer<Service, never, HttpClient.HttpClient> => {
  const { credentials, region } = options
  if (!isRegion(region)) {
    throw new RangeError(`AwsKms: region must be a name such as eu-central-1, got ${JSON.stringify(region)}`)
  }
  const address = addressOf(options.endpoint ?? `https://kms.${region}.amazonaws.com`)
  const obtained = Effect.isEffect(credentials) ? credentials : Effect.succeed(credentials)
  return Layer.effect(Service, Effect.map(HttpClient.HttpClient, (http) => make(http, region, address, obtained)))
}

/**
 * Makes the key management service that the environment names, as AWS's tools read it: `AWS_REGION`, `AWS_ACCESS_KEY_ID`,
 * `AWS_SECRET_ACCESS_KEY`, and if they are set `AWS_SESSION_TOKEN` and `AWS_ENDPOINT_URL_KMS`. The layer dies with a RangeError if the
 * region or the endpoint is invalid.
 *
 * @category layers
 */
export const layerConfig = (): Layer.Layer<Service, Config.ConfigError, HttpClient.HttpClient> =>
  Layer.unwrap(Effect.gen(function*() {
    const region = yield* Config.String("AWS_REGION")
    const accessKeyId = yield* Config.String("AWS_ACCESS_KEY_ID")
    const secretAccessKey = yield* Config.Redacted("AWS_SECRET_ACCESS_KEY")
    const sessionToken = Option.getOrUndefined(yield* Config.option(Config.Redacted("AWS_SESSION_TOKEN")))
    const endpoint = Option.getOrUndefined(yield* Config.option(Config.String("AWS_ENDPOINT_URL_KMS")))
    return layer({ region, credentials: { accessKeyId, secretAccessKey, sessionToken }, endpoint })
  }))
