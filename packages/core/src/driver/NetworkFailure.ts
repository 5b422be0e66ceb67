/**
 * Classifies errors of Node's network, DNS and TLS: one table for all drivers, so that the same fault has the same reason and
 * advice on each broker.
 *
 * Codes: https://nodejs.org/api/errors.html#common-system-errors and https://nodejs.org/api/tls.html#x509-certificate-error-codes
 */
import type { BrokerError } from "./BrokerError.ts"

/** The names that an error message contains. */
export interface Place {
  /** The system: `Kafka`, `RabbitMQ`. */
  readonly product: string
  /** `host:port`, without credentials. */
  readonly address: string
  /** The option that holds the address: `brokers`, `url`. */
  readonly option: string
  /** The advice on TLS settings: `correct tls, or the port`. */
  readonly tls: string
}

/** A reason, and a message that says how to fix the fault. */
export interface Found {
  readonly reason: Extract<BrokerError["reason"], "Unreachable" | "Lost" | "Credentials">
  readonly message: string
}

type Kind = "refused" | "network" | "name" | "resolver" | "shortage" | "silent" | "late" | "ended"

const kinds: Readonly<Record<Kind, ReadonlyArray<string>>> = {
  refused: ["ECONNREFUSED"],
  network: ["EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN"],
  name: ["ENOTFOUND", "EAI_NONAME", "EAI_NODATA"],
  resolver: ["EAI_AGAIN", "EAI_FAIL"],
  // limits of this process or machine, not of the server
  shortage: ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EADDRNOTAVAIL"],
  // undici's own connect timeout
  silent: ["UND_ERR_CONNECT_TIMEOUT"],
  // while connecting, or on an open connection
  late: ["ETIMEDOUT", "UND_ERR_HEADERS_TIMEOUT", "UND_ERR_BODY_TIMEOUT"],
  ended: ["ECONNRESET", "ECONNABORTED", "EPIPE", "UND_ERR_SOCKET"]
}

const kindOf: ReadonlyMap<string, Kind> = new Map(
  (Object.keys(kinds) as ReadonlyArray<Kind>).flatMap((kind) => kinds[kind].map((code) => [code, kind] as const))
)

const code = /\bE(?:AI_)?[A-Z]{4,}\b|\bUND_ERR_[A-Z_]+\b/g

const certificate =
  /certificate|CERT_|SELF_SIGNED|ALTNAME|UNABLE_TO_VERIFY|UNABLE_TO_GET|HOSTNAME_MISMATCH|unknown ca|alert bad|alert decrypt|handshake failure|HANDSHAKE_FAILURE/i

const notTls =
  /EPROTO|ERR_SSL_|wrong version number|SSL routines|packet length too long|before secure TLS|requires TLS/i

/**
 * Collects the errors inside an error: clients wrap the errors of their attempts in `cause` or `errors`. The last attempt
 * comes first, with its causes: it shows the fault that remained.
 */
const inside = (error: unknown): ReadonlyArray<Error> => {
  const found: Array<Error> = []
  const waiting: Array<unknown> = [error]
  // bounded: a client may have tried hundreds of times, and a chain of causes may be cyclic
  while (waiting.length > 0 && found.length < 16) {
    const next = waiting.pop()
    if (!(next instanceof Error) || found.includes(next)) continue
    found.push(next)
    if ("errors" in next && Array.isArray(next.errors)) waiting.push(...next.errors.slice(-16))
    waiting.push(next.cause)
  }
  return found
}

const textOf = (error: Error): string =>
  `${"code" in error && typeof error.code === "string" ? error.code : ""} ${error.message}`

const shortages: Readonly<Record<string, string>> = {
  EMFILE: "this process has no file descriptor left: raise its limit (ulimit -n), or close what it leaves open",
  ENFILE: "this machine has no file descriptor left: raise fs.file-max, or stop what leaves files open",
  EADDRNOTAVAIL:
    "this machine has no free local port or no such local address: keep connections instead of opening new ones"
}

const byKind = (kind: Kind, code: string, isConnecting: boolean, place: Place): Found | undefined => {
  const { address, option, product } = place
  switch (kind) {
    case "refused":
      return {
        reason: "Unreachable",
        message: `No ${product} answers at ${address} (connection refused): start it, or correct ${option}.`
      }
    case "network":
      return {
        reason: "Unreachable",
        message:
          `The network has no way to ${product} at ${address} (${code}): check the address, the network and the firewall.`
      }
    case "name":
      return { reason: "Unreachable", message: `The name in ${address} cannot be resolved: correct ${option}.` }
    case "resolver":
      return {
        reason: "Unreachable",
        message:
          `The name in ${address} cannot be resolved, since the name server does not answer (${code}): check DNS.`
      }
    case "shortage":
      return {
        reason: "Unreachable",
        message: `No connection to ${product} at ${address} (${code}): ${
          shortages[code] ?? "this machine has no memory left for it"
        }.`
      }
    case "silent":
      return {
        reason: "Unreachable",
        message: `Nothing answers at ${address}: check the address, the network and the firewall.`
      }
    case "late":
      return isConnecting
        ? byKind("silent", code, isConnecting, place)
        : { reason: "Lost", message: `The connection to ${product} at ${address} stopped answering (${code}).` }
    case "ended":
      return isConnecting
        ? undefined
        : { reason: "Lost", message: `The connection to ${product} at ${address} ended in the middle (${code}).` }
  }
}

/**
 * Returns the reason and the advice for an error of Node's network, DNS or TLS.
 *
 * In: the error that a client library threw, with its causes; the driver's operation, and its place. Out: undefined for any
 * other error, and for a connection that ended during its setup: only the driver knows the meaning of that, and its reason is
 * `Unreachable`.
 *
 * - `Unreachable` (class `dependency`): refused, no route, no name, no answer in time, no TLS; also a shortage of this process
 *   or machine, such as `EMFILE`, which says nothing about the message
 * - `Lost` (class `transient`): an established connection ended, or stopped answering
 * - `Credentials` (class `permanent`): client or server refuses a certificate
 *
 * **Example** (a connection that was refused)
 *
 * ```ts
 * import { NetworkFailure } from "@millrace/core"
 *
 * const place = { product: "Redis", address: "10.0.0.1:6379", option: "url", tls: "correct tls, or the port" }
 * const error = Object.assign(new Error("connect ECONNREFUSED 10.0.0.1:6379"), { code: "ECONNREFUSED" })
 * console.log(NetworkFailure.of(error, "connect", place)?.message)
 * // => No Redis answers at 10.0.0.1:6379 (connection refused): start it, or correct url.
 * ```
 */
export const of = (error: unknown, operation: BrokerError["operation"], place: Place): Found | undefined => {
  const errors = inside(error)
  const text = errors.map(textOf).join(" ")
  if (certificate.test(text)) {
    const said = errors.map(({ message }) => message).find((message) => certificate.test(message)) ?? errors[0]?.message
    return {
      reason: "Credentials",
      message:
        `The certificates of this client and ${place.product} at ${place.address} do not fit: ${said}. Give tls.ca the authority that signed the server's, connect by a name that it holds, and give tls.cert and tls.key where the server asks for them.`
    }
  }
  // before the codes: a server that closes a connection it does not understand also causes a code
  if (notTls.test(text)) {
    return {
      reason: "Unreachable",
      message: `What answers at ${place.address} does not speak TLS as this client does: ${place.tls}.`
    }
  }
  for (const [found] of text.matchAll(code)) {
    const kind = kindOf.get(found)
    if (kind === undefined) continue
    const isConnecting = operation === "connect" ||
      errors.some((each) => "syscall" in each && each.syscall === "connect") || text.includes(`connect ${found}`)
    return byKind(kind, found, isConnecting && (kind !== "ended" || operation === "connect"), place)
  }
  return undefined
}
