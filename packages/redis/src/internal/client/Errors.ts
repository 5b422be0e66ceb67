/**
 * Converts ioredis's errors, and the Redis error codes behind them, to a `BrokerError` that explains the cause and the remedy.
 *
 * Error codes that replies begin with: https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors and errors of
 * Redis 7.0's `server.c`.
 */
import { BrokerError, type Failure, NetworkFailure } from "@millrace/core"

type Operation = BrokerError.BrokerError["operation"]

/** The connection details that an error message may name. */
export interface Place {
  /** `host:port`, without credentials. */
  readonly address: string
  readonly user: string | undefined
  /** The option that holds the address. Default: `url`. */
  readonly option?: string | undefined
  /** The configured protocol: `TLS` or `the plain protocol`. */
  readonly speaks: string
  /** Whether the TLS handshake succeeded before the failure: servers report a missing client certificate only after it. */
  readonly isShaken?: boolean | undefined
  /** Whether the client was configured with `cluster`. */
  readonly isCluster?: boolean | undefined
  /** Replaces secrets. */
  readonly redact: (text: string) => string
}

/** The channel and group that an error may name besides the place. */
export interface Where {
  readonly channel?: string | undefined
  readonly group?: string | undefined
}

interface Found {
  /** The error code that a reply begins with: `NOAUTH`, `WRONGTYPE` … */
  readonly word: string
  readonly message: string
  readonly code: string
}

const read = (error: unknown): Found => {
  if (!(error instanceof Error)) return { word: "", message: String(error), code: "" }
  const code: unknown = Reflect.get(error, "code")
  return {
    word: /^-?([A-Z]{3,})\b/.exec(error.message)?.[1] ?? "",
    message: error.message,
    code: typeof code === "string" ? code : ""
  }
}

/** The error code of a Redis reply, e.g. `NOGROUP`, or an empty text. */
export const wordOf = (error: unknown): string => read(error).word

/** A command that was not sent because there is no connection; `reason` tells why. */
export class Unsent extends Error {
  readonly reason: unknown
  constructor(reason: unknown) {
    super("Stream isn't writeable: there is no connection")
    this.reason = reason
  }
}

/** Picks the most severe error of one call: a lost command, which may have run, before a refused one. */
export const gravest = (errors: ReadonlyArray<unknown>): unknown =>
  errors.find((error) => wordOf(error) === "" && !(error instanceof Unsent)) ?? errors[0]

/** Whether a connection ended or failed because no reply came in time. */
export const isSilence = (error: BrokerError.BrokerError): boolean =>
  typeof error.cause === "string" && /time(?:d )?out/i.test(error.cause)

interface Verdict {
  readonly reason: BrokerError.Reason
  readonly what: string
  readonly failure?: Failure.FailureClass
}

const who = (place: Place): string => place.user === undefined ? "This client" : `User ${place.user}`

const byWord = (found: Found, place: Place, where: Where): Verdict | undefined => {
  const redis = `Redis at ${place.address}`
  const channel = where.channel ?? "the channel"
  switch (found.word) {
    case "WRONGPASS":
      return {
        reason: "Credentials",
        what: `${redis} refused ${
          place.user === undefined ? "the password" : `user ${place.user}`
        }: check the user and the password in url, and that the user is on.`
      }
    case "NOAUTH":
      return {
        reason: "Credentials",
        what: `${redis} wants to know who asks: give url a user and a password, as in redis://user:password@host:port.`
      }
    case "NOPERM":
      return {
        reason: "Permission",
        what: `${
          who(place)
        } may not do this: ${found.message}. Grant it by ACL SETUSER: the commands and keys in docs/redis.md.`
      }
    case "OOM":
      return {
        reason: "Full",
        failure: "dependency",
        what: `${redis} is full and takes nothing more (maxmemory): raise it, trim streams, or wait for consumers.`
      }
    case "MISCONF":
      return {
        reason: "Full",
        failure: "dependency",
        what: `${redis} cannot write to its disk and takes nothing more: ${found.message}. Make room there, or mend it.`
      }
    case "NOREPLICAS":
      return {
        reason: "Unknown",
        failure: "dependency",
        what: `${redis} has too few replicas to write (min-replicas-to-write): bring them back.`
      }
    case "READONLY":
      return {
        reason: "Unreachable",
        what: `${redis} is a replica and takes no writes: connect to the primary; after a failover it comes by itself.`
      }
    case "LOADING":
    case "BUSY":
    case "MASTERDOWN":
    case "TRYAGAIN":
    case "CLUSTERDOWN":
      return { reason: "Unreachable", what: `${redis} is not ready: ${found.message}` }
    case "MOVED":
    case "ASK":
      // the command did not run, whichever node has the slot now
      if (place.isCluster === true) {
        return { reason: "Unreachable", what: `${redis} gave ${channel} to another node; it is found again.` }
      }
      return {
        reason: "Unsupported",
        what: `${redis} is a node of a Redis Cluster: give the addresses of its nodes as cluster, in place of url.`
      }
    case "CROSSSLOT":
      return {
        reason: "Unsupported",
        what: `${redis} is a node of a Redis Cluster, and the keys of this call belong to several slots of it.`
      }
    case "WRONGTYPE":
      return {
        reason: "Conflict",
        what: `The key ${channel} holds something else than this channel needs: use another name, or delete the key.`
      }
    case "NOGROUP":
      return {
        reason: "Lost",
        what: `The group ${where.group ?? ""} of ${channel} is gone: somebody deleted it or the key. It is made again.`
      }
    case "FENCED":
      return { reason: "Lost", what: place.redact(found.message.replace(/^-?FENCED /, "")) }
    case "UNBLOCKED":
      return { reason: "Lost", what: `The key ${channel} was deleted or replaced while it was read.` }
    default:
      return byText(found, place)
  }
}

const byText = ({ message }: Found, place: Place): Verdict | undefined => {
  const redis = `Redis at ${place.address}`
  if (/cluster support disabled/i.test(message)) {
    return {
      reason: "Invalid",
      what: `${redis} is one server and no node of a cluster: give it as url, in place of cluster.`
    }
  }
  if (/max number of clients/i.test(message)) {
    return { reason: "Unreachable", what: `${redis} has no room for another connection (maxclients): raise it.` }
  }
  if (/invalid bulk length|string exceeds maximum/i.test(message)) {
    return {
      reason: "TooLarge",
      what: `${redis} takes no message of this length (proto-max-bulk-len): shorten it, or raise the limit.`
    }
  }
  if (/DB index/i.test(message)) {
    return { reason: "Invalid", what: `${redis} has no such database: correct the number at the end of url.` }
  }
  if (/unknown (sub)?command|syntax error|error compiling script/i.test(message)) {
    return { reason: "Unsupported", what: `${redis} cannot do it: ${message}. Redis 7.0 or newer is needed.` }
  }
  return undefined
}

const byConnection = (error: unknown, found: Found, place: Place, operation: Operation): Verdict | undefined => {
  const text = `${found.code} ${found.message}`
  const network = NetworkFailure.of(error, operation, {
    product: "Redis",
    address: place.address,
    option: place.option ?? "url",
    tls: "correct tls, or the port"
  })
  if (network !== undefined) return { reason: network.reason, what: network.message }
  if (/timed out|socket timeout/i.test(text)) {
    return operation === "connect"
      ? {
        reason: "Unreachable",
        what: `Nothing at ${place.address} answers in ${place.speaks} in time: check ${
          place.option ?? "url"
        }, tls, the network and the firewall.`
      }
      : { reason: "Lost", what: `Redis at ${place.address} gave no answer in time; what was asked of it may be done.` }
  }
  // nothing was sent
  if (/isn't writeable/.test(found.message)) {
    return { reason: "Unreachable", what: `There is no connection to Redis at ${place.address}; it is tried again.` }
  }
  if (/Connection is closed|aborted|max retries|ECONN|EPIPE|socket|Protocol error/i.test(text)) {
    if (operation === "connect" && place.isShaken === true) {
      return {
        reason: "Credentials",
        failure: "dependency",
        what:
          `Redis at ${place.address} ended the connection after TLS was agreed on. It wants a certificate of its own authority, as a rule: give tls.cert and tls.key one.`
      }
    }
    return operation === "connect"
      ? {
        reason: "Unreachable",
        what:
          `Redis at ${place.address} ends each connection at once, spoken to in ${place.speaks}: check that the port is one of Redis, and tls.`
      }
      : { reason: "Lost", what: `The connection to Redis at ${place.address} ended in the middle.` }
  }
  return undefined
}

/**
 * Makes a `BrokerError` of any error from ioredis. Its errors carry the command with its arguments, which are bodies or
 * passwords: the cause keeps only the redacted text.
 */
export const fromUnknown = (
  error: unknown,
  operation: Operation,
  place: Place,
  where: Where = {}
): BrokerError.BrokerError => {
  if (error instanceof BrokerError.BrokerError) return error
  if (error instanceof Unsent && error.reason !== undefined) return unsent(error.reason, operation, place)
  const found = read(error)
  const verdict: Verdict = byWord(found, place, where) ?? byConnection(error, found, place, operation) ?? {
    reason: "Unknown",
    failure: "permanent",
    what: `Redis at ${place.address}: ${found.message}`
  }
  return BrokerError.make({
    system: "redis",
    operation,
    reason: verdict.reason,
    message: place.redact(verdict.what),
    failure: verdict.failure,
    cause: place.redact(`${found.code} ${found.message}`.trim())
  })
}

/** Converts an unsent command: the error explains why there is no connection, and a lost connection becomes `Unreachable`. */
const unsent = (reason: unknown, operation: Operation, place: Place): BrokerError.BrokerError => {
  const { cause, failure, message, reason: why } = fromUnknown(reason, "connect", place)
  const isLost = why === "Lost"
  return BrokerError.make({
    system: "redis",
    operation,
    reason: isLost ? "Unreachable" : why,
    failure: isLost ? undefined : failure,
    message: isLost
      ? `There is no connection to Redis at ${place.address}; it is tried again. The last one: ${message}`
      : message,
    cause
  })
}

/** Makes the error of an option or a message that Redis can never accept. */
export const invalid = (operation: Operation, message: string): BrokerError.BrokerError =>
  BrokerError.make({ system: "redis", operation, reason: "Invalid", message })

/** Makes the error of an operation that this driver does not support. */
export const unsupported = (operation: Operation, message: string): BrokerError.BrokerError =>
  BrokerError.make({ system: "redis", operation, reason: "Unsupported", message })

/** Makes the error of messages that no longer belong to this consumer, or of a publish without confirmation. */
export const lost = (operation: Operation, message: string): BrokerError.BrokerError =>
  BrokerError.make({ system: "redis", operation, reason: "Lost", message })
