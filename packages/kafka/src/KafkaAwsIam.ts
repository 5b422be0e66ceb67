/**
 * Tokens of AWS IAM for Amazon MSK, signed with Signature Version 4 without an SDK. The token for SASL OAUTHBEARER is a
 * presigned URL of the action `kafka-cluster:Connect`, in base64url.
 *
 * Formats: https://github.com/aws/aws-msk-iam-sasl-signer-js and
 * https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
 */
import { DriverOptions } from "@millrace/core"
import { Clock, DateTime, Effect, Redacted } from "effect"
import { createHash, createHmac } from "node:crypto"
import type { Source } from "./internal/Token.ts"

/** Credentials of AWS, with the names that its SDKs and metadata services use. */
export interface AwsCredentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string | Redacted.Redacted
  /** Only for temporary credentials. */
  readonly sessionToken?: string | Redacted.Redacted | undefined
}

/** Options of the tokens. */
export interface Options<E = never> {
  /** The region of the cluster, e.g. `eu-central-1`. */
  readonly region: string
  /** Constant credentials, or an Effect that obtains them. The Effect runs for each token, so a role's rotation takes effect. */
  readonly credentials: AwsCredentials | Effect.Effect<AwsCredentials, E>
}

/** The lifetime of a token in seconds, the maximum that Amazon MSK accepts. */
export const lifetime = 900

const algorithm = "AWS4-HMAC-SHA256"
const service = "kafka-cluster"

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex")
const hmac = (key: string | Buffer, text: string): Buffer => createHmac("sha256", key).update(text).digest()
const { plain } = DriverOptions

/** Percent-encodes all but the unreserved characters of RFC 3986. */
const encode = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (found) => `%${found.charCodeAt(0).toString(16).toUpperCase()}`)

/** Presigns a `GET` URL; `now` is in Unix milliseconds. */
const presign = (region: string, credentials: AwsCredentials, now: number): string => {
  const { accessKeyId, secretAccessKey, sessionToken } = credentials
  const host = `kafka.${region}.amazonaws.com`
  const time = DateTime.formatIso(DateTime.makeUnsafe(now)).replace(/[-:]|\.\d{3}/g, "")
  const date = time.slice(0, 8)
  const scope = `${date}/${region}/${service}/aws4_request`
  const query = Object.entries({
    Action: "kafka-cluster:Connect",
    "X-Amz-Algorithm": algorithm,
    "X-Amz-Credential": `${accessKeyId}/${scope}`,
    "X-Amz-Date": time,
    "X-Amz-Expires": String(lifetime),
    ...(sessionToken === undefined ? {} : { "X-Amz-Security-Token": plain(sessionToken) }),
    "X-Amz-SignedHeaders": "host"
  }).map(([name, value]) => `${encode(name)}=${encode(value)}`).join("&")
  const request = ["GET", "/", query, `host:${host}\n`, "host", sha256("")].join("\n")
  const key = [region, service, "aws4_request"].reduce(
    (key, part) => hmac(key, part),
    hmac(`AWS4${plain(secretAccessKey)}`, date)
  )
  const signature = hmac(key, [algorithm, time, scope, sha256(request)].join("\n")).toString("hex")
  return `https://${host}/?${query}&X-Amz-Signature=${signature}`
}

/**
 * Makes tokens for `sasl: { mechanism: "oauthbearer", token }`, one for each connection, valid for 900 seconds.
 *
 * **Example** (a cluster of Amazon MSK)
 *
 * ```ts
 * import { Kafka } from "@millrace/kafka"
 * import * as KafkaAwsIam from "@millrace/kafka/KafkaAwsIam"
 *
 * const credentials = { accessKeyId: "AKIDEXAMPLE", secretAccessKey: "a secret" }
 *
 * const broker = Kafka.layer({
 *   brokers: "b-1.example.kafka.eu-central-1.amazonaws.com:9098",
 *   tls: "on",
 *   sasl: { mechanism: "oauthbearer", token: KafkaAwsIam.token({ region: "eu-central-1", credentials }) }
 * })
 * ```
 *
 * An error of `credentials` fails the connection with `Credentials`. Empty constant credentials throw a `RangeError`; empty
 * credentials from an Effect fail the connection.
 *
 * @category constructors
 */
export const token = <E = never>({ credentials, region }: Options<E>): Source => {
  if (!/^[a-z0-9-]+$/.test(region)) {
    throw new RangeError(`KafkaAwsIam: region must be a name such as eu-central-1, got "${region}"`)
  }
  const fault = (given: AwsCredentials): RangeError | undefined =>
    given.accessKeyId === "" || plain(given.secretAccessKey) === ""
      ? new RangeError(
        "KafkaAwsIam: credentials must have an accessKeyId and a secretAccessKey, and one of them is empty"
      )
      : undefined
  const signed = (given: AwsCredentials) =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      const url = `${presign(region, given, now)}&User-Agent=millrace`
      return { token: Redacted.make(Buffer.from(url).toString("base64url")), expiresAt: now + lifetime * 1000 }
    })
  if (Effect.isEffect(credentials)) {
    return Effect.flatMap(credentials, (given): Source => {
      const error = fault(given)
      return error === undefined ? signed(given) : Effect.fail(error)
    })
  }
  const error = fault(credentials)
  if (error !== undefined) throw error
  return signed(credentials)
}
