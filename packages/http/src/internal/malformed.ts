/**
 * Requests that a parser lets through and that a server must refuse (RFC 9112, 3, 3.2 and 6.1): two servers could read such a
 * request differently, which allows request smuggling.
 */
import { Data } from "effect"

/** The request is malformed. Class `permanent`, answered with 400 or 501; the server closes the connection. */
export class RequestMalformed extends Data.TaggedError("RequestMalformed")<{
  readonly status: 400 | 501
  readonly message: string
}> {
  readonly failure = "permanent" as const
}

/** The parts of a Node request that this module reads. */
export interface Parsed {
  readonly httpVersionMajor: number
  readonly rawHeaders: ReadonlyArray<string>
  readonly headers: {
    readonly host?: string | undefined
    readonly "transfer-encoding"?: string | undefined
  }
}

const hosts = (raw: ReadonlyArray<string>): number => {
  let count = 0
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!
    if (name.length === 4 && name.toLowerCase() === "host") count += 1
  }
  return count
}

/**
 * Whether a text is `uri-host [ ":" port ]` (RFC 9110, 7.2; RFC 3986, 3.2.2). The text may be empty, for a target without an
 * authority.
 */
const isHost = (host: string): boolean =>
  host === "" || /^(?:[\w.~!$&'()*+,;=-]|%[\da-f]{2})*(?::\d*)?$/i.test(host) ||
  /^\[v?[\da-f:.]+\](?::\d*)?$/i.test(host)

// nearly every request has the same host as the previous request
let good = ""

const isKnownHost = (host: string): boolean => {
  if (host === good) return true
  if (!isHost(host)) return false
  good = host
  return true
}

/** The flaw of a request; undefined if the request is well-formed. */
export const flawOf = ({ headers, httpVersionMajor, rawHeaders }: Parsed): RequestMalformed | undefined => {
  if (httpVersionMajor < 1) {
    return new RequestMalformed({ status: 400, message: "The request line must end with a version of HTTP/1" })
  }
  if (hosts(rawHeaders) > 1) return new RequestMalformed({ status: 400, message: "The request has more than one host" })
  if (headers.host !== undefined && !isKnownHost(headers.host)) {
    return new RequestMalformed({ status: 400, message: "The host of the request is no host with a port" })
  }
  const coding = headers["transfer-encoding"]
  return coding === undefined || coding.toLowerCase() === "chunked"
    ? undefined
    : new RequestMalformed({ status: 501, message: "The only transfer coding of a request is chunked" })
}
