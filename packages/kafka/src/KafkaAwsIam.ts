/**
 * Tokens of AWS IAM for Amazon MSK, signed with Signature Version 4 without an SDK. The token for SASL OAUTHBEARER is a
 * presigned URL of the action `kafka-cluster:Connect`, in base64url.
 *
 * Format: https://github.com/aws/aws-msk-iam-sasl-signer-js
 */
import * as AwsSignature from "@millrace/core/awsSignature"
import { Clock, Effect, Redacted } from "effect"
import type { Source } from "./internal/Token.ts"

/** Credentials of AWS, with the names that its SDKs and metadata services use. */
export interface AwsCredentials extends AwsSignature.Credentials {}

/** Options of the tokens. */
export interface Options<E = never> {
  /** The region of the cluster, e.g. `eu-central-1`. */
  readonly region: string
  /** Constant credentials, or an Effect that obtains them. The Effect runs for each token, so a role's rotation takes effect. */
  readonly credentials: AwsCredentials | Effect.Effect<AwsCredentials, E>
}

/** The lifetime of a token in seconds, the maximum that Amazon MSK accepts. */
export const lifetime = 900

const { plain } = AwsSignature

/** Presigns a `GET` URL; `now` is in Unix milliseconds. */
const presign = (region: string, credentials: AwsCredentials, now: number): string => {
  const { sessionToken } = credentials
  const scope = { region, service: "kafka-cluster", now }
  const host = `kafka.${region}.amazonaws.com`
  const { credential, time } = AwsSignature.stampOf(scope, credentials)
  const query = AwsSignature.queryOf(Object.entries({
    Action: "kafka-cluster:Connect",
    "X-Amz-Algorithm": AwsSignature.algorithm,
    "X-Amz-Credential": credential,
    "X-Amz-Date": time,
    "X-Amz-Expires": String(lifetime),
    ...(sessionToken === undefined ? {} : { "X-Amz-Security-Token": plain(sessionToken) }),
    "X-Amz-SignedHeaders": "host"
  }))
  const request = { method: "GET", path: "/", query, headers: { host }, payload: AwsSignature.digest("") }
  return `https://${host}/?${query}&X-Amz-Signature=${AwsSignature.signatureOf(request, scope, credentials)}`
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
