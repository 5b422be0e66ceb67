/**
 * Signature Version 4 of AWS, in the `authorization` header.
 *
 * Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
 */
import { DateTime, Redacted } from "effect"
import { createHash, createHmac } from "node:crypto"

/** Credentials of AWS, with the names that its SDKs and metadata services use. */
export interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string | Redacted.Redacted
  /** Only for temporary credentials. */
  readonly sessionToken?: string | Redacted.Redacted | undefined
  /** The end of temporary credentials: a `Date`, or Unix time in milliseconds. Default: unknown. */
  readonly expiresAt?: Date | number | undefined
}

/** A request to sign. Paths are encoded, names of headers in lower case, and `host` is one of them. */
export interface Unsigned {
  readonly method: string
  readonly path: string
  readonly query: ReadonlyArray<readonly [string, string]>
  readonly headers: Readonly<Record<string, string>>
  /** SHA-256 of the body, in hexadecimal. */
  readonly payload: string
}

const algorithm = "AWS4-HMAC-SHA256"

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex")
const hmac = (key: string | Buffer, text: string): Buffer => createHmac("sha256", key).update(text).digest()
const plain = (secret: string | Redacted.Redacted): string =>
  typeof secret === "string" ? secret : Redacted.value(secret)

/** Percent-encodes all but the unreserved characters of RFC 3986. */
export const encode = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (found) => `%${found.charCodeAt(0).toString(16).toUpperCase()}`)

/** The query of a request, in the order that is signed. */
export const queryOf = (query: ReadonlyArray<readonly [string, string]>): string =>
  query.map(([name, value]) => `${encode(name)}=${encode(value)}`).sort().join("&")

/** The headers of a signed request, without `host`, which the client sends; `now` is in Unix milliseconds. */
export const sign = (
  { headers, method, path, payload, query }: Unsigned,
  { accessKeyId, secretAccessKey, sessionToken }: Credentials,
  region: string,
  service: string,
  now: number
): Record<string, string> => {
  const time = DateTime.formatIso(DateTime.makeUnsafe(now)).replace(/[-:]|\.\d{3}/g, "")
  const date = time.slice(0, 8)
  const scope = `${date}/${region}/${service}/aws4_request`
  const all: Record<string, string> = {
    ...headers,
    "x-amz-date": time,
    "x-amz-content-sha256": payload,
    ...(sessionToken === undefined ? {} : { "x-amz-security-token": plain(sessionToken) })
  }
  const names = Object.keys(all).sort()
  const listed = names.join(";")
  const lines = names.map((name) => `${name}:${all[name]?.trim().replace(/ +/g, " ")}\n`).join("")
  const request = [method, path, queryOf(query), lines, listed, payload].join("\n")
  const key = [region, service, "aws4_request"].reduce(
    (key, part) => hmac(key, part),
    hmac(`AWS4${plain(secretAccessKey)}`, date)
  )
  const signature = hmac(key, [algorithm, time, scope, sha256(request)].join("\n")).toString("hex")
  const { host: _, ...sent } = all
  return {
    ...sent,
    authorization: `${algorithm} Credential=${accessKeyId}/${scope}, SignedHeaders=${listed}, Signature=${signature}`
  }
}
