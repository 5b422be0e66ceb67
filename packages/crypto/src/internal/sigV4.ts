/**
 * AWS Signature Version 4 of a `POST` to `/` without a query, as the JSON protocol of AWS has it.
 * Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
 */
import { DateTime, Redacted } from "effect"
import { createHash, createHmac } from "node:crypto"

/** Credentials of AWS. */
export interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: Redacted.Redacted<string>
  /** Only for temporary credentials. */
  readonly sessionToken?: Redacted.Redacted<string> | undefined
}

const algorithm = "AWS4-HMAC-SHA256"

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex")
const hmac = (key: string | Buffer, text: string): Buffer => createHmac("sha256", key).update(text).digest()

/** Returns the headers of a signed request: those given, in lower case, and date, token and signature. `now` is in Unix milliseconds. */
export const signed = (
  { body, headers, host, region, service }: {
    readonly host: string
    readonly region: string
    readonly service: string
    readonly headers: { readonly [name: string]: string }
    readonly body: string
  },
  { accessKeyId, secretAccessKey, sessionToken }: Credentials,
  now: number
): { readonly [name: string]: string } => {
  const time = DateTime.formatIso(DateTime.makeUnsafe(now)).replace(/[-:]|\.\d{3}/g, "")
  const date = time.slice(0, 8)
  const scope = `${date}/${region}/${service}/aws4_request`
  const sent: Record<string, string> = {
    ...headers,
    "x-amz-date": time,
    ...(sessionToken === undefined ? {} : { "x-amz-security-token": Redacted.value(sessionToken) })
  }
  const covered = Object.entries({ ...sent, host }).sort(([a], [b]) => a < b ? -1 : 1)
  const names = covered.map(([name]) => name).join(";")
  const request = [
    "POST",
    "/",
    "",
    ...covered.map(([name, value]) => `${name}:${value.trim().replace(/ +/g, " ")}`),
    "",
    names,
    sha256(body)
  ].join("\n")
  const key = [region, service, "aws4_request"].reduce(
    (key, part) => hmac(key, part),
    hmac(`AWS4${Redacted.value(secretAccessKey)}`, date)
  )
  const signature = hmac(key, [algorithm, time, scope, sha256(request)].join("\n")).toString("hex")
  return {
    ...sent,
    authorization: `${algorithm} Credential=${accessKeyId}/${scope}, SignedHeaders=${names}, Signature=${signature}`
  }
}
