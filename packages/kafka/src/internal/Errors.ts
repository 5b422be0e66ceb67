/**
 * Maps errors of the client libraries, and Kafka's codes in them, to a `BrokerError` that says what happened and what to do.
 *
 * Codes: https://kafka.apache.org/protocol#protocol_error_codes
 */
import { BrokerError, NetworkFailure } from "@millrace/core"
import { Effect, Schedule } from "effect"
import type { ResolvedOptions } from "./Options.ts"

type Operation = BrokerError.BrokerError["operation"]

/** The names that an error message may mention. */
export interface Place {
  /** `host:port` of the brokers, without credentials. */
  readonly brokers: string
  readonly user?: string | undefined
  /** Whether the next authentication obtains new credentials. */
  readonly isRenewable?: boolean | undefined
  /** The configured protocol: `SASL PLAIN`, `TLS` …. */
  readonly speaks: string
  readonly channel?: string | undefined
  readonly group?: string | undefined
  /** Replaces secrets. */
  readonly redact: (text: string) => string
}

interface Found {
  readonly name: string
  readonly message: string
  readonly type: string | undefined
  readonly code: string | undefined
  readonly retriable: boolean | undefined
}

const text = (value: unknown): string | undefined => typeof value === "string" ? value : undefined

const property = (error: object, name: string): unknown => (error as { readonly [key: string]: unknown })[name]

/** Finds the root error: clients wrap the error that made them give up in `cause`, and several errors in `errors`. */
export const rootOf = (error: unknown): unknown => {
  let root = error
  // limits the depth, because a chain of causes may be circular
  for (let depth = 0; depth < 8 && root instanceof Error; depth++) {
    const errors = property(root, "errors")
    // the error of the last attempt is the most recent
    const next: unknown = Array.isArray(errors) && errors.length > 0 ? errors.at(-1) : root.cause
    if (!(next instanceof Error)) return root
    root = next
  }
  return root
}

const read = (error: unknown): Found => {
  const root = rootOf(error)
  if (!(root instanceof Error)) {
    return { name: "", message: String(root), type: undefined, code: undefined, retriable: undefined }
  }
  const retriable = property(root, "retriable") ?? property(root, "canRetry")
  return {
    name: root.name,
    message: text(property(root, "serverErrorMessage")) ?? root.message,
    // kafkajs and @platformatic/kafka name the property with Kafka's code differently
    type: text(property(root, "type") ?? property(root, "apiId")),
    code: text(property(root, "code")),
    retriable: typeof retriable === "boolean" ? retriable : undefined
  }
}

/** Finds the name of Kafka's code in an error, e.g. `ILLEGAL_GENERATION`. */
export const typeOf = (error: unknown): string | undefined => read(error).type

/** Codes that end an assignment: the group has removed the member, or has a new generation. */
const ended: ReadonlySet<string> = new Set([
  "ILLEGAL_GENERATION",
  "UNKNOWN_MEMBER_ID",
  "FENCED_INSTANCE_ID",
  "UNRELEASED_INSTANCE_ID",
  "FENCED_MEMBER_EPOCH",
  "REBALANCE_IN_PROGRESS"
])

/** Whether this member has lost its assignment. */
export const isLost = (error: unknown): boolean => ended.has(typeOf(error) ?? "")

/**
 * Codes of a coordinator that moves to another broker: the broker is being elected, or loads the offsets of its groups.
 * kafkajs uses older names.
 */
const coordinatorMoves: ReadonlySet<string> = new Set([
  "COORDINATOR_LOAD_IN_PROGRESS",
  "COORDINATOR_NOT_AVAILABLE",
  "NOT_COORDINATOR",
  "GROUP_LOAD_IN_PROGRESS",
  "GROUP_COORDINATOR_NOT_AVAILABLE",
  "NOT_COORDINATOR_FOR_GROUP"
])

type Verdict = readonly [reason: BrokerError.Reason, what: string]

const byType = (found: Found, place: Place): Verdict | undefined => {
  const channel = place.channel ?? "the topic"
  switch (found.type) {
    case "UNKNOWN_TOPIC_OR_PARTITION":
      return ["NotFound", `The topic ${channel} does not exist: declare it, or set missingTopics to "create".`]
    case "INVALID_TOPIC_EXCEPTION":
      return [
        "Invalid",
        `Kafka takes no topic named ${channel}: use at most 249 letters, digits, dots, underscores and hyphens.`
      ]
    case "TOPIC_AUTHORIZATION_FAILED":
      return ["Permission", `${who(place)} may not use the topic ${channel}: grant it the operation by an ACL.`]
    case "GROUP_AUTHORIZATION_FAILED":
      return [
        "Permission",
        `${who(place)} may not use the group ${place.group ?? ""}: grant it READ on the group by an ACL.`
      ]
    case "CLUSTER_AUTHORIZATION_FAILED":
    case "TRANSACTIONAL_ID_AUTHORIZATION_FAILED":
    case "DELEGATION_TOKEN_AUTHORIZATION_FAILED":
      return ["Permission", `${who(place)} may not do this: ${found.message}. Grant it by an ACL.`]
    case "MESSAGE_TOO_LARGE":
    case "RECORD_LIST_TOO_LARGE":
      return [
        "TooLarge",
        `A message for ${channel} is larger than the topic takes: shorten it, or raise max.message.bytes of the topic.`
      ]
    case "KAFKA_STORAGE_ERROR":
      return [
        "Full",
        `Kafka at ${place.brokers} cannot write to the disk of ${channel}: it is full, or fails. Make room, or let another broker lead.`
      ]
    case "TOPIC_ALREADY_EXISTS":
      return ["Conflict", `The topic ${channel} exists already.`]
    case "INVALID_CONFIG":
    case "INVALID_PARTITIONS":
    case "INVALID_REPLICATION_FACTOR":
    case "INVALID_REPLICA_ASSIGNMENT":
    case "POLICY_VIOLATION":
    case "INVALID_REQUEST":
    case "INVALID_GROUP_ID":
    case "INVALID_SESSION_TIMEOUT":
    case "INVALID_TIMESTAMP":
    case "INVALID_RECORD":
    case "INVALID_REQUIRED_ACKS":
    case "INVALID_COMMIT_OFFSET_SIZE":
    case "INVALID_TRANSACTION_TIMEOUT":
      return ["Invalid", `Kafka refused this for ${channel}: ${found.message}.`]
    case "INCONSISTENT_GROUP_PROTOCOL":
      return [
        "Conflict",
        `The group ${
          place.group ?? ""
        } is in use by clients that divide partitions otherwise: use another group, or their assigner.`
      ]
    case "UNSUPPORTED_VERSION":
    case "UNSUPPORTED_FOR_MESSAGE_FORMAT":
    case "UNSUPPORTED_COMPRESSION_TYPE":
      return ["Unsupported", `This Kafka cannot do it: ${found.message}.`]
    case "SASL_AUTHENTICATION_FAILED":
      return credentials(found, place)
    case "UNSUPPORTED_SASL_MECHANISM":
      return ["Credentials", unoffered(place)]
    case "ILLEGAL_SASL_STATE":
      if (isToken(place)) return refusedToken(found, place)
      return [
        "Credentials",
        `The listener of Kafka at ${place.brokers} asks for no credentials: leave sasl out, or correct the port.`
      ]
    // kafkajs uses an older name
    case "NOT_LEADER_OR_FOLLOWER":
    case "NOT_LEADER_FOR_PARTITION":
    case "LEADER_NOT_AVAILABLE":
    case "BROKER_NOT_AVAILABLE":
    case "REPLICA_NOT_AVAILABLE":
    case "NOT_ENOUGH_REPLICAS":
    case "NOT_ENOUGH_REPLICAS_AFTER_APPEND":
      return ["Lost", `Kafka at ${place.brokers} is not ready: ${found.message}`]
    case "INVALID_PRODUCER_EPOCH":
    case "PRODUCER_FENCED":
      return [
        "Lost",
        "Another producer has taken over this transactional id: give each running producer one of its own."
      ]
    default:
      if (coordinatorMoves.has(found.type ?? "")) {
        return ["Lost", `Kafka at ${place.brokers} is not ready: ${found.message}`]
      }
      return ended.has(found.type ?? "")
        ? ["Lost", `The assignment of group ${place.group ?? ""} ended: ${found.message}`]
        : undefined
  }
}

const who = (place: Place): string => place.user === undefined ? "This client" : `User ${place.user}`

const unoffered = (place: Place): string =>
  `Kafka at ${place.brokers} does not offer ${place.speaks}: set sasl.mechanism to one that its listener has.`

const isToken = ({ speaks }: Place): boolean => speaks.includes("OAUTHBEARER")

const refusedToken = (found: Found, place: Place): Verdict => [
  "Credentials",
  `Kafka at ${place.brokers} refused the OAUTHBEARER token${
    found.name === "TokenRefused" ? ` (${found.message})` : ""
  }: obtain one whose issuer, audience and lifetime its listener accepts.`
]

const credentials = (found: Found, place: Place): Verdict => {
  if (!/change principals/.test(found.message)) return refusedUser(found, place)
  return [
    "Lost",
    `The user changed, and Kafka at ${place.brokers} ends connections of another: the next has the new one.`
  ]
}

const refusedUser = (found: Found, place: Place): Verdict => [
  "Credentials",
  /not supported|suitable/.test(found.message)
    ? unoffered(place)
    : isToken(place)
    ? refusedToken(found, place)[1]
    : `Kafka at ${place.brokers} refused user ${
      place.user ?? ""
    } by ${place.speaks}: check the user, the password and the mechanism.`
]

const byConnection = (error: unknown, found: Found, operation: Operation, place: Place): Verdict | undefined => {
  const network = NetworkFailure.of(error, operation, {
    product: "Kafka",
    address: place.brokers,
    option: "brokers",
    tls: "correct tls, or the port"
  })
  if (network !== undefined) return [network.reason, network.message]
  if (isConnection(found) && /connection.*(timeout|timed out)/i.test(found.message)) {
    return ["Unreachable", `Nothing answers at ${place.brokers}: check the address, the network and the firewall.`]
  }
  return undefined
}

const strange = (place: Place): string =>
  `Something at ${place.brokers} takes the connection and does not answer ${place.speaks} of Kafka: check that the port is a Kafka listener, and that tls and sasl are as it wants them.`

/** Whether the connection failed, as opposed to the request on it. */
const isConnection = ({ code, name }: Found): boolean =>
  name === "KafkaJSConnectionError" || code === "PLT_KFK_NETWORK" || code === "PLT_KFK_UNEXPECTED_CORRELATION_ID"

const byName = (found: Found, place: Place, operation: Operation): Verdict | undefined => {
  // the names of kafkajs, and the codes of @platformatic/kafka
  switch (
    found.code !== undefined && /^(PLT_KFK_|(ECONNRESET|ECONNABORTED|EPIPE)$)/.test(found.code)
      ? found.code
      : found.name
  ) {
    case "PLT_KFK_AUTHENTICATION":
    case "KafkaJSSASLAuthenticationError":
      return credentials(found, place)
    case "PLT_KFK_NETWORK":
    case "PLT_KFK_UNEXPECTED_CORRELATION_ID":
    case "PLT_KFK_OUT_OF_BOUNDS":
    case "ECONNRESET":
    case "ECONNABORTED":
    case "EPIPE":
    case "KafkaJSConnectionError":
    case "KafkaJSConnectionClosedError":
    case "KafkaJSRequestTimeoutError":
    case "KafkaJSLockTimeout":
      return operation === "connect"
        ? ["Unreachable", strange(place)]
        : ["Lost", `The connection to Kafka at ${place.brokers} ended in the middle: ${found.message}.`]
    case "KafkaJSBrokerNotFound":
    case "KafkaJSNoBrokerAvailableError":
    case "KafkaJSGroupCoordinatorNotFound":
    case "KafkaJSMetadataNotLoaded":
    case "KafkaJSTopicMetadataNotLoaded":
    case "KafkaJSStaleTopicMetadataAssignment":
      return ["Lost", `Kafka at ${place.brokers} is not ready: ${found.message}.`]
    case "KafkaJSNotImplemented":
      return [
        "Unsupported",
        `${found.message}: kafkajs needs a codec for it, set CompressionCodecs of kafkajs before the first message.`
      ]
    case "PLT_KFK_UNSUPPORTED_API":
    case "PLT_KFK_UNSUPPORTED_COMPRESSION":
    case "PLT_KFK_UNSUPPORTED":
    case "KafkaJSServerDoesNotSupportApiKey":
      return ["Unsupported", `This Kafka cannot do it: ${found.message}.`]
    default:
      return undefined
  }
}

/** Makes a `BrokerError` of any error that a client threw. */
export const fromUnknown = (error: unknown, operation: Operation, place: Place): BrokerError.BrokerError => {
  if (error instanceof BrokerError.BrokerError) return error
  const root = rootOf(error)
  if (root instanceof BrokerError.BrokerError) return root
  const found = read(error)
  const verdict = byType(found, place) ?? byConnection(error, found, operation, place) ??
    byName(found, place, operation)
  if (verdict !== undefined) {
    const isRefused = verdict[0] === "Credentials" && place.isRenewable === true
    return BrokerError.make({
      system: "kafka",
      operation,
      reason: verdict[0],
      message: place.redact(verdict[1]),
      ...(isRefused ? { failure: "dependency" } : {}),
      cause: causeOf(error, place)
    })
  }
  return BrokerError.make({
    system: "kafka",
    operation,
    reason: "Unknown",
    message: place.redact(`Kafka at ${place.brokers}: ${found.message}`),
    failure: found.retriable === true ? "transient" : "permanent",
    cause: causeOf(error, place)
  })
}

/** The cause in a form that is safe to log: a client's error holds no options, but a server's message may repeat secrets. */
const causeOf = (error: unknown, place: Place): unknown => {
  const root = rootOf(error)
  if (!(root instanceof Error)) return place.redact(String(root))
  return place.redact(`${root.message} ${root.stack ?? ""}`) === `${root.message} ${root.stack ?? ""}`
    ? root
    : place.redact(root.message)
}

/** The error of an option or a message that Kafka can never accept. */
export const invalid = (operation: Operation, message: string): BrokerError.BrokerError =>
  BrokerError.make({ system: "kafka", operation, reason: "Invalid", message })

/** The error of a server that accepts the connection and never answers. */
export const silent = (place: Place): BrokerError.BrokerError =>
  BrokerError.make({ system: "kafka", operation: "connect", reason: "Unreachable", message: strange(place) })

/** Calls a client and maps its error to a `BrokerError`. */
export const attempt = <A>(
  place: Place,
  operation: Operation,
  call: () => Promise<A>,
  where?: { readonly channel?: string | undefined; readonly group?: string | undefined }
): Effect.Effect<A, BrokerError.BrokerError> =>
  Effect.tryPromise({
    try: call,
    catch: (error) => fromUnknown(error, operation, { ...place, ...where })
  })

/**
 * Calls a client about a group, and retries every 100 ms for up to `requestTimeout` while the group's coordinator moves.
 * After a restart, a broker answers only once it has loaded the offsets of its groups, and clients do not wait for that.
 */
export const attemptGroup = <A>(
  settings: ResolvedOptions,
  operation: Operation,
  call: () => Promise<A>,
  where: { readonly channel?: string | undefined; readonly group: string }
): Effect.Effect<A, BrokerError.BrokerError> =>
  Effect.retry(attempt(settings.place, operation, call, where), {
    while: (error) => coordinatorMoves.has(typeOf(error.cause) ?? ""),
    schedule: Schedule.upTo(Schedule.spaced("100 millis"), { duration: settings.requestTimeout })
  })
