/**
 * Converts reason codes of MQTT 5, mqtt.js's errors and network errors to a `BrokerError` that says how to fix the problem.
 *
 * Codes: https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html#_Toc3901031
 */
import { BrokerError, NetworkFailure } from "@millrace/core"

type Operation = BrokerError.BrokerError["operation"]

/** The details that an error message may name. */
export interface Place {
  /** `host:port`, without credentials. */
  readonly server: string
  readonly user: string | undefined
  /** Whether the next connection gets new credentials. */
  readonly isRenewable?: boolean | undefined
  /** The configured transport: `TLS`, `WebSocket` …. */
  readonly speaks: string
  readonly clientId: string
  /** Replaces secrets. */
  readonly redact: (text: string) => string
  readonly channel?: string | undefined
  readonly group?: string | undefined
}

type Verdict = readonly [reason: BrokerError.Reason, message: string]

/** A reason code of the server that is not a success. */
export class Answered extends Error {
  readonly code: number
  constructor(code: number, said = "") {
    super(`reason code ${code}${said === "" ? "" : ` (${said})`}`)
    this.code = code
  }
}

/** The server has ended the connection, with its reason. */
export class Disconnected extends Answered {}

const who = (place: Place): string => place.user === undefined ? "This client" : `User ${place.user}`

const credentials = (place: Place): Verdict => [
  "Credentials",
  `${
    place.user === undefined ? "The server" : `User ${place.user}: the server`
  } at ${place.server} refused the connection: check username and password, and that the client id ${place.clientId} is theirs to use.`
]

const byCode = (code: number, operation: Operation, place: Place): Verdict | undefined => {
  const { channel = "the topic", server } = place
  switch (code) {
    case 16:
      return [
        "Unreachable",
        `Nobody subscribes to ${channel} at ${server}, so the server dropped the message: subscribe first, or set producer.unheard to "confirm" where it may be lost.`
      ]
    case 134:
    case 138:
    case 140:
      return credentials(place)
    case 135:
      return operation === "connect" ? credentials(place) : [
        "Permission",
        `${who(place)} may not ${
          operation === "publish" ? "publish to" : "subscribe to"
        } ${channel}: allow it in the server's access control list.`
      ]
    case 129:
    case 130:
      return operation === "publish"
        ? ["Invalid", `The server at ${server} takes no message like this one for ${channel} (reason code ${code}).`]
        : undefined
    case 133:
      return ["Invalid", `The server at ${server} takes no client id like ${place.clientId}: set clientId to another.`]
    case 136:
    case 137:
    case 139:
    case 156:
    case 157:
    case 159:
    case 160:
      return operation === "connect"
        ? ["Unreachable", `The server at ${server} takes no connections now (reason code ${code}): try again later.`]
        : ["Lost", `The server at ${server} ended the connection (reason code ${code}): it stops, or has moved.`]
    case 142:
      return [
        "Lost",
        `Another client took over the session of ${place.clientId}: give each running process a clientId of its own.`
      ]
    case 143:
      return ["Invalid", `The server at ${server} takes no subscription to ${channel}.`]
    case 144:
      return ["Invalid", `The server at ${server} takes no topic named ${channel}.`]
    case 149:
      return [
        "TooLarge",
        `A message for ${channel} is larger than the server at ${server} takes: shorten it, or raise the server's maximum packet size.`
      ]
    case 150:
    case 151:
      return [
        "Full",
        `The server at ${server} has taken all that it lets this client send (reason code ${code}): send less, or raise its quota.`
      ]
    case 153:
      return ["Invalid", `The server at ${server} found that a message for ${channel} is not what its headers say.`]
    case 1:
    case 132:
      return ["Unsupported", `The server at ${server} does not speak MQTT 5: use one that does.`]
    case 154:
      return ["Unsupported", `The server at ${server} retains no messages: leave out mqtt-retain.`]
    case 155:
      return ["Unsupported", `The server at ${server} does not offer this QoS: lower qos.`]
    case 158:
      return [
        "Unsupported",
        `The server at ${server} has no shared subscriptions: set consumer.sharing to "exclusive".`
      ]
    case 162:
      return ["Unsupported", `The server at ${server} has no wildcards: subscribe to each channel by its name.`]
    default:
      return undefined
  }
}

/**
 * The reason why the server ended a connection, if it does not concern a message. A user whose credentials expired may
 * publish on the next connection with renewed ones, but not with the same ones.
 */
const byDisconnect = (code: number, { isRenewable, server }: Place): Verdict | undefined => {
  switch (code) {
    case 135:
    case 160:
      return isRenewable === true || code === 160
        ? ["Lost", `The server at ${server} ended the connection (reason code ${code}), as when credentials end.`]
        : undefined
    case 128:
    case 141:
    case 147:
    case 148:
    case 152:
      return ["Lost", `The server at ${server} ended the connection (reason code ${code}).`]
    default:
      return undefined
  }
}

const property = (error: object, name: string): unknown => (error as { readonly [key: string]: unknown })[name]

const byNetwork = (
  error: unknown,
  text: string,
  operation: Operation,
  { server, speaks }: Place
): Verdict | undefined => {
  const network = NetworkFailure.of(error, operation, {
    product: "MQTT server",
    address: server,
    option: "url",
    tls: "correct url or tls"
  })
  if (network !== undefined) return [network.reason, network.message]
  if (operation === "connect" && /ended|timeout|ECONN|EPIPE|hang up|server response/i.test(text)) {
    return [
      "Unreachable",
      `What is at ${server} does not answer MQTT 5 by ${speaks}: check that the port speaks MQTT, and that url and tls are as it wants them.`
    ]
  }
  return undefined
}

const ended = /ended|Keepalive timeout|disconnecting|No connection|stream|write after end/i

const verdictOf = (error: unknown, operation: Operation, place: Place): Verdict => {
  const code = error instanceof Error ? property(error, "code") : undefined
  if (typeof code === "number") {
    const ended = error instanceof Disconnected ? byDisconnect(code, place) : undefined
    return ended ?? byCode(code, operation, place) ??
      ["Unknown", `The server at ${place.server} refused this with reason code ${code}.`]
  }
  const text = error instanceof Error ? `${typeof code === "string" ? `${code} ` : ""}${error.message}` : String(error)
  return byNetwork(error, text, operation, place) ?? (ended.test(text)
    ? [
      "Lost",
      `The connection to the server at ${place.server} ended in the middle: ${text}. If it does again and again, another process may have the clientId of ${place.clientId}.`
    ]
    : ["Unknown", `The server at ${place.server}: ${text}`])
}

/** The cause, safe to log: its texts and code, without the certificates and sockets that Node attaches. */
const causeOf = (error: unknown, { redact }: Place): unknown => {
  if (!(error instanceof Error)) return redact(String(error))
  const cause = new Error(redact(error.message))
  cause.name = error.name
  if (error.stack !== undefined) cause.stack = redact(error.stack)
  const code = property(error, "code")
  return typeof code === "string" || typeof code === "number" ? Object.assign(cause, { code }) : cause
}

/** Converts any error of mqtt.js or the network to a `BrokerError`. */
export const fromUnknown = (error: unknown, operation: Operation, place: Place): BrokerError.BrokerError => {
  if (error instanceof BrokerError.BrokerError) return error
  const [reason, message] = verdictOf(error, operation, place)
  const isRefused = reason === "Credentials" && place.isRenewable === true
  return BrokerError.make({
    system: "mqtt",
    operation,
    reason,
    message: place.redact(message),
    ...(isRefused ? { failure: "dependency" } : {}),
    cause: causeOf(error, place)
  })
}

/** The error for the other messages in flight, when one message made the server end the connection. */
export const lostByAnother = ({ message }: BrokerError.BrokerError): BrokerError.BrokerError =>
  BrokerError.make({
    system: "mqtt",
    operation: "publish",
    reason: "Lost",
    message: `The connection ended, maybe because of another message: ${message}`
  })

/** The error for an option or a message that MQTT can never accept. */
export const invalid = (operation: Operation, message: string): BrokerError.BrokerError =>
  BrokerError.make({ system: "mqtt", operation, reason: "Invalid", message })

/** The error for a feature that MQTT, or this use of it, lacks. */
export const unsupported = (operation: Operation, message: string): BrokerError.BrokerError =>
  BrokerError.make({ system: "mqtt", operation, reason: "Unsupported", message })
