/**
 * Converts the client's errors, and the JetStream error codes behind them, to a `BrokerError` that says how to fix the
 * problem.
 *
 * Codes: https://github.com/nats-io/nats-server/blob/main/server/errors.json
 */
import { BrokerError, NetworkFailure } from "@millrace/core"
import { JetStreamApiError } from "@nats-io/jetstream"
import { errors } from "@nats-io/transport-node"

type Operation = BrokerError.BrokerError["operation"]

/** The details that an error message may name. */
export interface Place {
  /** `host:port` of the servers, without credentials. */
  readonly servers: string
  readonly user?: string | undefined
  /** The client's way to authenticate: `password`, `token` …. */
  readonly by: string
  readonly channel?: string | undefined
  readonly group?: string | undefined
  /** Whether TLS is required on this connection. */
  readonly isSecure?: boolean | undefined
  /** Whether the next connection gets new credentials. */
  readonly isRenewable?: boolean | undefined
  /** Replaces secrets. */
  readonly redact: (text: string) => string
}

type Verdict = readonly [
  reason: BrokerError.Reason,
  what: string,
  failure?: BrokerError.BrokerError["failure"] | undefined
]

const causes = (error: unknown): ReadonlyArray<Error> => {
  const found: Array<Error> = []
  // the bound ends a cyclic chain of causes
  for (let next = error; next instanceof Error && found.length < 8; next = next.cause) found.push(next)
  return found
}

/** Whether a request had no responders. */
export const isUnanswered = (error: unknown): boolean =>
  causes(error).some((each) => each instanceof errors.NoRespondersError)

const codeOf = (error: Error): string => "code" in error && typeof error.code === "string" ? error.code : ""

const who = (place: Place): string => place.user === undefined ? "This client" : `User ${place.user}`

const cutOff = /unexpected response|ECONN|EPIPE|undefined error/i

const byConnection = (list: ReadonlyArray<Error>, operation: Operation, place: Place): Verdict | undefined => {
  const network = NetworkFailure.of(list[0], operation, {
    product: "NATS",
    address: place.servers,
    option: "servers",
    tls: "correct tls, or the port"
  })
  if (network !== undefined) return [network.reason, network.message]
  const text = list.map((each) => `${codeOf(each)} ${each.message}`).join(" ")
  if (/connection refused/.test(text)) {
    return ["Unreachable", `No NATS answers at ${place.servers} (connection refused): start it, or correct servers.`]
  }
  if (/does not support 'tls'|'tls' is not available/i.test(text)) {
    return [
      "Unreachable",
      `What answers at ${place.servers} does not speak TLS as this client does: correct tls, or the port.`
    ]
  }
  if (cutOff.test(text) && place.isSecure === true) {
    // TLS 1.3 reports a missing certificate after the handshake, and the connection often ends before the client can read
    // the alert
    return [
      "Credentials",
      `NATS at ${place.servers} ended the connection while TLS was set up, as it does with clients without a certificate that it trusts: give tls.cert and tls.key. If it asks for none, check that the port is a NATS listener.`,
      "dependency"
    ]
  }
  if (cutOff.test(text)) {
    return [
      "Unreachable",
      `Something at ${place.servers} takes the connection and does not answer as NATS does: check that the port is a NATS listener, and that tls is as it wants it.`
    ]
  }
  return undefined
}

const subjectOf = (place: Place): string => place.channel ?? "the subject"

const byCode = (error: JetStreamApiError, place: Place): Verdict => {
  const channel = subjectOf(place)
  switch (error.code) {
    case 10059:
      return ["NotFound", `No stream of JetStream holds ${channel}: declare it, or set missingStreams to "create".`]
    case 10014:
      return ["NotFound", `The consumer of group ${place.group ?? ""} on ${channel} does not exist any more.`]
    case 10054:
    case 10053:
      return [
        "TooLarge",
        `A message for ${channel} is larger than its stream takes: shorten it, or raise max_msg_size.`
      ]
    case 10097:
      return [
        "TooLarge",
        `The key and headers of a message for ${channel} take more than 64 KiB: put them into the body.`
      ]
    // JetStream answers this with 500, as for its own failures
    case 10111:
      return ["Invalid", `JetStream refused this for ${channel}: ${error.message}.`]
    case 10058:
    case 10065:
    case 10013:
    case 10105:
    case 10148:
    case 10099:
    case 10100:
      return [
        "Conflict",
        `JetStream has something else by this name or subject: ${error.message}. Declare it as it is, or change it.`
      ]
    case 10077:
    case 10122:
      return [
        "Full",
        `The stream of ${channel} is full and refuses new messages (${error.message}): make room, raise its limits, or let it discard the old.`
      ]
    case 10039:
    case 10076:
      return [
        "Unsupported",
        `NATS at ${place.servers} has no JetStream for this account: enable it, or use Nats.layer of this package.`
      ]
    case 10002:
    case 10023:
    case 10026:
    case 10027:
    case 10028:
    case 10047:
    case 10051:
      return [
        "Full",
        `NATS at ${place.servers} is at a limit: ${error.message}. Raise it, or make room.`,
        "dependency"
      ]
    case 10071:
    case 10070:
      return ["Conflict", `Somebody else has written to ${channel} first: ${error.message}.`]
    case 10004:
    case 10008:
    case 10009:
      return ["Lost", `JetStream at ${place.servers} is not ready: ${error.message}.`]
    default:
      return error.status >= 500
        ? ["Lost", `JetStream at ${place.servers} could not do it: ${error.message}.`]
        : error.status === 404
        ? ["NotFound", `JetStream does not find it for ${channel}: ${error.message}.`]
        : ["Invalid", `JetStream refused this for ${channel}: ${error.message}.`]
  }
}

const byClass = (list: ReadonlyArray<Error>, operation: Operation, place: Place): Verdict | undefined => {
  for (const error of list) {
    if (error instanceof JetStreamApiError) return byCode(error, place)
    if (error.name === "JetStreamNotEnabled") {
      return [
        "Unsupported",
        `NATS at ${place.servers} runs without JetStream: start it with -js, or use Nats.layer of this package.`
      ]
    }
    if (error instanceof errors.PermissionViolationError) {
      return [
        "Permission",
        `${who(place)} may not ${error.operation === "publish" ? "publish" : "subscribe"} to ${
          error.subject || subjectOf(place)
        } at ${place.servers}: grant it in the server's permissions.`
      ]
    }
    if (error instanceof errors.AuthorizationError || error instanceof errors.UserAuthenticationExpiredError) {
      return [
        "Credentials",
        `NATS at ${place.servers} refused ${
          place.user === undefined ? "this client" : `user ${place.user}`
        } by ${place.by} (${error.message}): check user, password, token or credentials.`,
        place.isRenewable === true ? "dependency" : undefined
      ]
    }
    if (error instanceof errors.NoRespondersError) {
      return [
        "NotFound",
        `No stream of JetStream holds ${subjectOf(place)}: declare it, or set missingStreams to "create".`
      ]
    }
    if (error instanceof errors.TimeoutError) {
      return operation === "connect"
        ? ["Unreachable", `Nothing answers at ${place.servers}: check the address, the network and the firewall.`]
        : ["Lost", `NATS at ${place.servers} did not answer in time.`]
    }
    if (error instanceof errors.InvalidArgumentError || error instanceof errors.InvalidSubjectError) {
      return ["Invalid", `NATS cannot take this: ${error.message}.`]
    }
  }
  return undefined
}

const ended = /closed connection|connection closed|connection draining|connection disconnected/

/** Converts any error of the client to a `BrokerError`. */
export const fromUnknown = (error: unknown, operation: Operation, place: Place): BrokerError.BrokerError => {
  if (error instanceof BrokerError.BrokerError) return error
  const list = causes(error)
  const verdict: Verdict = byClass(list, operation, place) ??
    (list.some(({ message }) => ended.test(message))
      ? ["Lost", `The connection to NATS at ${place.servers} ended in the middle.`]
      : byConnection(list, operation, place) ??
        ["Unknown", `NATS at ${place.servers}: ${list[0]?.message ?? String(error)}`])
  return BrokerError.make({
    system: "nats",
    operation,
    reason: verdict[0],
    message: place.redact(verdict[1]),
    ...(verdict[2] === undefined ? {} : { failure: verdict[2] }),
    cause: causeOf(error, place)
  })
}

/** The cause, safe to log: the client's errors hold no options, but a server's text may repeat a secret. */
const causeOf = (error: unknown, place: Place): unknown => {
  if (!(error instanceof Error)) return error === undefined ? undefined : place.redact(String(error))
  const all = causes(error).map((each) => `${each.message} ${each.stack ?? ""}`).join(" ")
  return place.redact(all) === all ? error : place.redact(error.message)
}

/** Makes an error of this driver. */
export const make = (
  operation: Operation,
  reason: BrokerError.Reason,
  message: string,
  failure?: BrokerError.BrokerError["failure"]
): BrokerError.BrokerError => BrokerError.make({ system: "nats", operation, reason, message, failure })

/** The error for an option or a message that NATS can never accept. */
export const invalid = (operation: Operation, message: string): BrokerError.BrokerError =>
  make(operation, "Invalid", message)

/** The error of an operation whose connection has ended. */
export const lost = (operation: Operation, place: Place, why = "ended in the middle"): BrokerError.BrokerError =>
  make(operation, "Lost", `The connection to NATS at ${place.servers} ${why}.`)
