/**
 * From reason codes of MQTT 5, mqtt.js's errors and those of the network to a `BrokerError`: what happened, and what to do.
 *
 * Codes: https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html#_Toc3901031
 */
import { BrokerError, NetworkFailure } from "@millrace/core"

type Operation = BrokerError.BrokerError["operation"]

/** What the message of an error may name. */
export interface Place {
  /** `host:port`, without credentials. */
  readonly server: string
  readonly user: string | undefined
  /** Whether the next connection has other credentials. */
  readonly isRenewable?: boolean | undefined
  /** `TLS`, `WebSocket` …: what the client was told to speak. */
  readonly speaks: string
  readonly clientId: string
  /** Replaces what is secret. */
  readonly redact: (text: string) => string
  readonly channel?: string | undefined
  readonly group?: string | undefined
}

type Verdict = readonly [reason: BrokerError.Reason, message: string]

/** An answer of the server that is not a success. */
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
 * Why the server ended a connection, where that says nothing of a message. A user whose credentials ended may publish by the next
 * connection; one that has the same credentials then may not.
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

/** The cause as a user may log it: what it says, and not the certificates and sockets that Node hangs on it. */
const causeOf = (error: unknown, { redact }: Place): unknown => {
  if (!(error instanceof Error)) return redact(String(error))
  const cause = new Error(redact(error.message))
  cause.name = error.name
  if (error.stack !== undefined) cause.stack = redact(error.stack)
  const code = property(error, "code")
  return typeof code === "string" || typeof code === "number" ? Object.assign(cause, { code }) : cause
}

/** Makes a `BrokerError` of whatever mqtt.js or the network came with. */
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

/** The end of a connection for the sake of one message, for those that were on their way with it. */
export const lostByAnother = ({ message }: BrokerError.BrokerError): BrokerError.BrokerError =>
  BrokerError.make({
    system: "mqtt",
    operation: "publish",
    reason: "Lost",
    message: `The connection ended, maybe because of another message: ${message}`
  })

/** An option or a message that MQTT can never take. */
export const invalid = (operation: Operation, message: string): BrokerError.BrokerError =>
  BrokerError.make({ system: "mqtt", operation, reason: "Invalid", message })

/** What MQTT, or this way to use it, does not have. */
export const unsupported = (operation: Operation, message: string): BrokerError.BrokerError =>
  BrokerError.make({ system: "mqtt", operation, reason: "Unsupported", message })
