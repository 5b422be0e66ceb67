/**
 * Signature Version 4 of AWS, which signs a request by a secret key.
 *
 * Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
 */
import { DateTime, Redacted } from "effect"
import { sha256 } from "./sha256.ts"

/** Credentials of AWS, with the names that its SDKs and metadata services use. */
export interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string | Redacted.Redacted
  /** Only for temporary credentials. */
  readonly sessionToken?: string | Redacted.Redacted | undefined
}

/** The service that a signature is valid for, and its time in Unix milliseconds. */
export interface Scope {
  readonly region: string
  readonly service: string
  readonly now: number
}

/** The parts of a request that are signed. */
export interface Signed {
  readonly method: string
  /** Percent-encoded. */
  readonly path: string
  /** As `queryOf` writes it. */
  readonly query: string
  /** With `host`, and names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  /** SHA-256 of the body, as `digest` writes it. */
  readonly payload: string
}

/** The name of the algorithm. */
export const algorithm = "AWS4-HMAC-SHA256"

const encoder = new TextEncoder()
const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")

/** SHA-256 of a text in hexadecimal. */
export const digest = (text: string): string => hex(sha256(encoder.encode(text)))

/** Returns the text of a secret. */
export const plain = (secret: string | Redacted.Redacted): string =>
  typeof secret === "string" ? secret : Redacted.value(secret)

/** Percent-encodes all but the unreserved characters of RFC 3986. */
export const encode = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (found) => `%${found.charCodeAt(0).toString(16).toUpperCase()}`)

/** Writes a query in the order that is signed. */
export const queryOf = (query: ReadonlyArray<readonly [string, string]>): string =>
  query.map(([name, value]) => `${encode(name)}=${encode(value)}`).sort().join("&")

// the block of SHA-256 (RFC 2104)
const block = 64

const hmac = (key: Uint8Array, text: string): Uint8Array => {
  const bytes = encoder.encode(text)
  const short = key.length > block ? sha256(key) : key
  const inner = new Uint8Array(block + bytes.length).fill(0x36, 0, block)
  const outer = new Uint8Array(block + 32).fill(0x5c, 0, block)
  short.forEach((byte, i) => {
    inner[i]! ^= byte
    outer[i]! ^= byte
  })
  inner.set(bytes, block)
  outer.set(sha256(inner), block)
  return sha256(outer)
}

/** The time of a signature, as `x-amz-date` has it, and the credential that its header or query names. */
export const stampOf = ({ now, region, service }: Scope, { accessKeyId }: Credentials) => {
  const time = DateTime.formatIso(DateTime.makeUnsafe(now)).replace(/[-:]|\.\d{3}/g, "")
  const scope = `${time.slice(0, 8)}/${region}/${service}/aws4_request`
  return { time, scope, credential: `${accessKeyId}/${scope}` }
}

/** The names of headers as a signature lists them. */
export const listed = (headers: Readonly<Record<string, string>>): string => Object.keys(headers).sort().join(";")

/** Returns the signature of a request in hexadecimal. */
export const signatureOf = (request: Signed, scope: Scope, credentials: Credentials): string => {
  const { headers, method, path, payload, query } = request
  const stamp = stampOf(scope, credentials)
  const lines = Object.keys(headers).sort().map((name) => `${name}:${headers[name]?.trim().replace(/ +/g, " ")}\n`)
  const canonical = [method, path, query, lines.join(""), listed(headers), payload].join("\n")
  const key = [scope.region, scope.service, "aws4_request"].reduce(
    hmac,
    hmac(encoder.encode(`AWS4${plain(credentials.secretAccessKey)}`), stamp.time.slice(0, 8))
  )
  return hex(hmac(key, [algorithm, stamp.time, stamp.scope, digest(canonical)].join("\n")))
}

/** Returns the field `authorization` of a request. */
export const authorizationOf = (request: Signed, scope: Scope, credentials: Credentials): string =>
  `${algorithm} Credential=${stampOf(scope, credentials).credential}, SignedHeaders=${
    listed(request.headers)
  }, Signature=${signatureOf(request, scope, credentials)}`
