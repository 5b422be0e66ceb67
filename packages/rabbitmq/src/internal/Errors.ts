/**
 * Maps amqplib's errors, and RabbitMQ's reply codes in them, to a `BrokerError` that says what happened and what to do.
 *
 * Codes: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
 */
import { BrokerError, NetworkFailure } from "@millrace/core"

type Operation = BrokerError.BrokerError["operation"]

/** The names that an error message may mention. */
export interface Place {
  /** `host:port` of the nodes, without credentials. */
  readonly nodes: string
  readonly user: string
  readonly vhost: string
  /** The configured protocol. */
  readonly speaks: string
  readonly channel?: string | undefined
  readonly queue?: string | undefined
  /** Replaces secrets. */
  readonly redact: (text: string) => string
}

interface Found {
  readonly message: string
  /** RabbitMQ's reply code. */
  readonly reply: number | undefined
  /** Node's error code. */
  readonly code: string
}

const property = (error: object, name: string): unknown => (error as { readonly [key: string]: unknown })[name]

const read = (error: unknown): Found => {
  if (!(error instanceof Error)) return { message: String(error), reply: undefined, code: "" }
  // a refused handshake, and a name with several addresses, nest their codes
  const inner = error instanceof AggregateError && error.errors[0] instanceof Error ? error.errors[0] : error
  const code = property(inner, "code")
  const said = /\b([345]\d\d) \(([A-Z-]+)\)/.exec(inner.message)?.[1]
  const shown = /(?:replyCode|"replyCode"): ?(\d{3})/.exec(inner.message)?.[1]
  const reply = typeof code === "number" ? code : Number(said ?? shown ?? Number.NaN)
  return {
    message: inner.message === "" ? inner.name : inner.message,
    reply: Number.isNaN(reply) ? undefined : reply,
    code: typeof code === "string" ? code : ""
  }
}

/** Finds RabbitMQ's reply code in an error: 404 not found, 405 locked, 406 precondition failed … */
export const replyOf = (error: unknown): number | undefined => read(error).reply

/** Whether RabbitMQ reports that a queue or an exchange does not exist; false if it exists and is not served now. */
export const isMissing = (error: unknown): boolean => {
  const { message, reply } = read(error)
  return reply === 404 && absent.test(said(message))
}

/** Whether the error means that a queue or an exchange does not exist; when connecting, `NotFound` means the virtual host. */
export const isAbsent = ({ operation, reason }: BrokerError.BrokerError): boolean =>
  reason === "NotFound" && operation !== "connect"

const absent = /^no (?:queue|exchange|binding)/i

/** Extracts RabbitMQ's own sentence from amqplib's message. */
const said = (message: string): string =>
  /"(?:[A-Z_]+ - )?(.+)"$/s.exec(message)?.[1] ?? /replyText:? ?['"](?:[A-Z_]+ - )?([^'"]+)/.exec(message)?.[1] ??
    message

type Verdict = readonly [reason: BrokerError.Reason, what: string, failure?: BrokerError.BrokerError["failure"]]

/** With an expired token, RabbitMQ 3 and 4.0 close a channel that publishes or consumes, newer versions the connection. */
const hasExpired = /\b(?:token|credentials?) (?:has )?expired\b/i

/** Whether the credentials of a connection have expired. */
export const isExpired = (error: unknown): boolean => hasExpired.test(read(error).message)

const at = (place: Place): string => `RabbitMQ at ${place.nodes}`

const thing = (place: Place): string => place.queue ?? place.channel ?? "it"

const byReply = (found: Found, place: Place, operation: Operation): Verdict | undefined => {
  const text = said(found.message)
  if (hasExpired.test(found.message)) {
    return [
      "Credentials",
      `${
        at(place)
      } ended what it had opened with credentials that ended: have the option credentials issue others, or check the clocks of both.`,
      "dependency"
    ]
  }
  switch (found.reply) {
    case 403:
      if (/in exclusive use/.test(text)) return ["Conflict", `${text}: another consumer has it for itself.`]
      return /login|Handshake|PLAIN|EXTERNAL/i.test(found.message)
        ? ["Credentials", `${at(place)} refused user ${place.user}: check the user and the password.`]
        : [
          "Permission",
          `User ${place.user} may not do this in the virtual host ${place.vhost}: ${text}. Grant it by rabbitmqctl set_permissions.`
        ]
    case 404:
      // a node that has just started, or is away, knows its queues but does not serve them yet
      return absent.test(text)
        ? ["NotFound", `${text}: declare the channel, or correct its name or its route.`]
        : ["Lost", `${at(place)} does not serve ${thing(place)} now: ${text}.`]
    case 405:
      return ["Conflict", `${text}: another connection has it for itself.`]
    case 406:
      return precondition(text, place, operation)
    case 530:
      return ["Permission", `${at(place)} does not allow it: ${text}.`]
    case 540:
      return ["Unsupported", `This RabbitMQ cannot do it: ${text}.`]
    case 311:
      return ["TooLarge", `A message for ${thing(place)} is larger than RabbitMQ takes: ${text}.`]
    case 320:
      return ["Lost", `${at(place)} closed the connection: ${text}.`]
    case 506:
      return ["Lost", `${at(place)} is short of resources: ${text}.`]
    case 541:
      return ["Lost", `${at(place)} had an error of its own: ${text}.`]
    default:
      return undefined
  }
}

const precondition = (text: string, place: Place, operation: Operation): Verdict => {
  if (/message size .*(?:larger|max size)|max message size/i.test(text)) {
    return [
      "TooLarge",
      `A message for ${thing(place)} is larger than RabbitMQ takes (${text}): shorten it, or raise max_message_size.`
    ]
  }
  if (/inequivalent arg|different|cannot redeclare/i.test(text)) {
    return [
      "Conflict",
      `${thing(place)} exists and differs: ${text}. Declare it as it is, or delete it once it is empty.`
    ]
  }
  if (/delivery acknowledgement.*timed out/i.test(text)) {
    return [
      "Lost",
      `A message of ${
        thing(place)
      } was held longer than RabbitMQ's consumer_timeout: finish sooner, or raise it and the option consumerTimeout.`
    ]
  }
  return operation === "declare" || operation === "publish"
    ? ["Invalid", `RabbitMQ refused this for ${thing(place)}: ${text}.`]
    : ["Lost", `RabbitMQ ended the channel of ${thing(place)}: ${text}.`]
}

const byConnection = (error: unknown, found: Found, place: Place, operation: Operation): Verdict | undefined => {
  const all = `${found.code} ${found.message}`
  const network = NetworkFailure.of(error, operation, {
    product: "RabbitMQ",
    address: place.nodes,
    option: "url",
    tls: "write amqp:// in url, or correct the port"
  })
  if (network !== undefined) return [network.reason, network.message]
  // amqplib does not expose the reason of a refusal at this step
  if (/Expected ConnectionOpenOk; got <ConnectionClose/.test(found.message)) {
    return [
      "NotFound",
      `${
        at(place)
      } has no virtual host ${place.vhost}, or user ${place.user} may not use it: correct url, or create it by rabbitmqctl add_vhost and grant it by set_permissions.`
    ]
  }
  if (/SASL mechanism/.test(found.message)) {
    return [
      "Credentials",
      `${at(place)} does not offer this way to log in: ${found.message}. Set authentication to one that it has.`
    ]
  }
  if (
    operation === "connect" &&
    /closed abruptly|ECONN|EPIPE|Invalid frame|handshake|Unexpected|disconnected/i.test(all)
  ) {
    return [
      "Unreachable",
      `What answers at ${place.nodes} ended the handshake (${found.message}), and this client speaks ${place.speaks}: correct the scheme or the port of url, or wait until the broker has started.`
    ]
  }
  if (
    /Channel (?:closed|ended|closing)|channel closed|Connection clos|Unexpected close|Heartbeat|IllegalOperation/i
      .test(all)
  ) {
    return ["Lost", `The connection to ${at(place)} ended in the middle: ${found.message}.`]
  }
  return undefined
}

/** Makes a `BrokerError` of any error that amqplib threw. */
export const fromUnknown = (error: unknown, operation: Operation, place: Place): BrokerError.BrokerError => {
  if (error instanceof BrokerError.BrokerError) return error
  const found = read(error)
  const verdict = byReply(found, place, operation) ?? byConnection(error, found, place, operation)
  return BrokerError.make({
    system: "rabbitmq",
    operation,
    reason: verdict?.[0] ?? "Unknown",
    failure: verdict?.[2],
    message: place.redact(verdict?.[1] ?? `${at(place)}: ${found.message}`),
    cause: causeOf(error, place)
  })
}

/**
 * The cause in a form that is safe to log, without the data that amqplib attaches to its errors: handshake frames hold the
 * password.
 */
const causeOf = (error: unknown, place: Place): unknown =>
  place.redact(error instanceof Error ? error.message : String(error))

/** Makes an error that this driver has detected itself. */
export const make = (
  operation: Operation,
  reason: BrokerError.Reason,
  message: string,
  failure?: BrokerError.BrokerError["failure"]
): BrokerError.BrokerError => BrokerError.make({ system: "rabbitmq", operation, reason, message, failure })

/** The error of an option or a message that RabbitMQ can never accept. */
export const invalid = (operation: Operation, message: string): BrokerError.BrokerError =>
  make(operation, "Invalid", message)

/** The error while RabbitMQ does not read from publishing connections. */
export const alarmed = (operation: Operation, place: Place, why: string): BrokerError.BrokerError =>
  make(
    operation,
    "Full",
    `${at(place)} takes no messages now (${why}): give it memory or disk, or let what is in its queues be consumed.`,
    "dependency"
  )

/** The error of a message that a queue refused. */
export const full = (place: Place, channel: string): BrokerError.BrokerError =>
  make(
    "publish",
    "Full",
    `${
      at(place)
    } did not take a message for ${channel}: a queue that it goes to is full, or has no leader now. Consume it, or raise its limit.`
  )

/** The error of messages that are not confirmed in time. */
export const unanswered = (place: Place, what: string): BrokerError.BrokerError =>
  make("publish", "Lost", `${at(place)} did not confirm ${what}: it may be overloaded, or a queue has no leader.`)

/** The error of properties that do not fit into a frame, for which RabbitMQ would close the connection. */
export const tooWide = (place: Place, channel: string, length: number, maximum: number): BrokerError.BrokerError =>
  make(
    "publish",
    "TooLarge",
    `A message for ${channel} has ${length} bytes of key and headers, and ${
      at(place)
    } takes ${maximum}: shorten them, or raise frame_max.`
  )

/** The error of a body that RabbitMQ is known to refuse. */
export const tooLong = (place: Place, channel: string, length: number, maximum: number): BrokerError.BrokerError =>
  make(
    "publish",
    "TooLarge",
    `A message for ${channel} has ${length} bytes, and ${
      at(place)
    } takes ${maximum}: shorten it, or raise max_message_size.`
  )

/** Whether amqplib threw because a channel or its connection has ended; its other errors concern the message. */
export const isEnded = (error: unknown): boolean => error instanceof Error && error.name === "IllegalOperationError"

/** The error of a message that amqplib cannot write as a frame. */
export const unwritable = (channel: string, names: ReadonlyArray<string>): BrokerError.BrokerError =>
  names.some((name) => Buffer.byteLength(name) > 255)
    ? invalid(
      "publish",
      `A message for ${channel} cannot be written: the name of its channel or of a header has more than 255 bytes. Shorten it.`
    )
    : invalid(
      "publish",
      `A message for ${channel} cannot be written: its key and headers take more than 64 KiB. Put them into the body.`
    )
