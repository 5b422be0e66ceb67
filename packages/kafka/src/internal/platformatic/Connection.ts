/**
 * The connections to a cluster by @platformatic/kafka: TLS, SASL and the requests of Kafka's protocol. Callers handle
 * membership, fetching and retries, because the client's own consumer joins a group again before running handlers could
 * finish.
 */
import { Effect, type Scope } from "effect"
import {
  type API,
  Base,
  type Broker,
  type Connection as BrokerConnection,
  type consumerGroupDescribeV0,
  type consumerGroupHeartbeatV1,
  type createTopicsV7,
  type deleteGroupsV2,
  type deleteTopicsV6,
  type describeConfigsV4,
  type describeGroupsV5,
  type fetchV17,
  type findCoordinatorV6,
  type heartbeatV4,
  type joinGroupV9,
  kGetApi,
  kGetBootstrapConnection,
  kGetConnection,
  type leaveGroupV5,
  type listGroupsV5,
  type listOffsetsV9,
  type metadataV12,
  type offsetCommitV9,
  type offsetFetchV9,
  type SASLOptions,
  saslPlain,
  saslScramSha,
  type syncGroupV5
} from "@platformatic/kafka"
import { callbackify } from "node:util"
import type { ResolvedOptions } from "../Options.ts"
import type { Passwords } from "../Password.ts"
import { refusalIn } from "../Token.ts"

/**
 * The requests in use. Each call uses the highest version that client and broker share; all versions take the same arguments.
 */
interface Apis {
  readonly ConsumerGroupDescribe: typeof consumerGroupDescribeV0.api.async
  readonly ConsumerGroupHeartbeat: typeof consumerGroupHeartbeatV1.api.async
  readonly CreateTopics: typeof createTopicsV7.api.async
  readonly DeleteGroups: typeof deleteGroupsV2.api.async
  readonly DeleteTopics: typeof deleteTopicsV6.api.async
  readonly DescribeConfigs: typeof describeConfigsV4.api.async
  readonly DescribeGroups: typeof describeGroupsV5.api.async
  readonly Fetch: typeof fetchV17.api.async
  readonly FindCoordinator: typeof findCoordinatorV6.api.async
  readonly Heartbeat: typeof heartbeatV4.api.async
  readonly JoinGroup: typeof joinGroupV9.api.async
  readonly LeaveGroup: typeof leaveGroupV5.api.async
  readonly ListGroups: typeof listGroupsV5.api.async
  readonly ListOffsets: typeof listOffsetsV9.api.async
  readonly Metadata: typeof metadataV12.api.async
  readonly OffsetCommit: typeof offsetCommitV9.api.async
  readonly OffsetFetch: typeof offsetFetchV9.api.async
  readonly SyncGroup: typeof syncGroupV5.api.async
}

type Arguments<N extends keyof Apis> = Parameters<Apis[N]> extends [BrokerConnection, ...infer A] ? A : never
type Answer<N extends keyof Apis> = Awaited<ReturnType<Apis[N]>>

/** The client's options for connecting. */
export const optionsOf = (settings: ResolvedOptions) => {
  const { brokers, clientId, connectTimeout, requestTimeout, sasl, tls } = settings
  return {
    clientId,
    bootstrapBrokers: Array.from(brokers),
    connectTimeout,
    requestTimeout,
    autocreateTopics: settings.missingTopics === "create",
    ...(tls === undefined ? {} : { tls }),
    ...(sasl === undefined ? {} : { sasl: saslOf(sasl) })
  }
}

const mechanisms = { plain: "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512" } as const

const saslOf = (sasl: NonNullable<ResolvedOptions["sasl"]>): SASLOptions =>
  sasl.mechanism === "oauthbearer"
    ? {
      mechanism: "OAUTHBEARER",
      token: sasl.tokens.next,
      authBytesValidator: (answer, done) => {
        const refused = refusalIn(answer)
        if (refused === undefined) done(null, answer)
        else done(refused)
      }
    }
    : { mechanism: mechanisms[sasl.mechanism], authenticate: authenticator(sasl.mechanism, sasl.passwords) }

/** The shortest time between two authentications of a connection: Kafka refuses the second within a second. */
const shortestSession = 2000

/**
 * Authenticates by the client's own mechanisms with one login, because the client would ask for user and password apart. It
 * authenticates again at 80 % of the session, which ends with the credentials if they end first.
 */
const authenticator = (
  mechanism: keyof typeof mechanisms,
  passwords: Passwords
): NonNullable<SASLOptions["authenticate"]> =>
(_, connection, api, __, ___, ____, done) => {
  const authenticate = async (): ReturnType<typeof saslPlain.authenticate> => {
    const { life, password, username } = await passwords.next()
    const answer = mechanism === "plain"
      ? await saslPlain.authenticate(api, connection, username, password)
      : await saslScramSha.authenticate(
        api,
        connection,
        mechanism === "scram-sha-256" ? "SHA-256" : "SHA-512",
        username,
        password
      )
    const session = Number(answer.sessionLifetimeMs)
    // without sessions, Kafka refuses another authentication
    if (session === 0 || session <= life) return answer
    return { ...answer, sessionLifetimeMs: BigInt(Math.ceil(Math.max(shortestSession, life))) }
  }
  callbackify(authenticate)(done)
}

/** Connections to the brokers of a cluster, one to each broker; a request waits for earlier ones on the same connection. */
export class Connection {
  private readonly base: Base
  /** The error that ended TLS on an established connection: the client itself reports only a closed connection. */
  private broken: Error | undefined

  constructor(base: Base) {
    this.base = base
    base.connections.on("connect", ({ connection }) => {
      this.broken = undefined
      connection.once("error", (error) => {
        if (/\balert\b/.test(String(error.cause))) this.broken = error
      })
    })
  }

  /** Sends a request to a broker, or to any broker. */
  async ask<N extends keyof Apis>(name: N, broker: Broker | undefined, ...args: Arguments<N>): Promise<Answer<N>> {
    try {
      const api = await this.api(name)
      // kGetApi returns the api of that name, and Apis types its arguments and answer
      const call = (api as { async: (...args: ReadonlyArray<unknown>) => Promise<unknown> }).async
      return await call(await this.to(broker), ...args) as Answer<N>
    } catch (error) {
      throw this.broken ?? error
    }
  }

  /** Finds the highest version of a request that client and broker share. */
  async version(name: keyof Apis): Promise<number> {
    return (await this.api(name)).version
  }

  to(broker: Broker | undefined): Promise<BrokerConnection> {
    return new Promise((resolve, reject) => {
      const done = (error: Error | null, connection?: BrokerConnection) =>
        connection === undefined ? reject(error) : resolve(connection)
      if (broker === undefined) this.base[kGetBootstrapConnection](done)
      else this.base[kGetConnection](broker, done)
    })
  }

  close(): Promise<void> {
    return this.base.close()
  }

  private api(name: keyof Apis): Promise<API<Array<unknown>, unknown>> {
    return new Promise((resolve, reject) =>
      this.base[kGetApi]<Array<unknown>, unknown>(
        name,
        (error, api) => api === undefined ? reject(error) : resolve(api)
      )
    )
  }
}

/** Closes a client; gives up after 5 seconds without an answer. */
export const close = (client: { close(): Promise<void> }): Effect.Effect<void> =>
  Effect.interruptible(Effect.tryPromise(() => client.close())).pipe(Effect.timeoutOption("5 seconds"), Effect.ignore)

/** Opens a connection that closes with the scope. The connection starts at its first request, and retries nothing. */
export const open = (settings: ResolvedOptions): Effect.Effect<Connection, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => new Connection(new Base({ ...optionsOf(settings), retries: 0 }))),
    close
  )

/** Reads the answer from a client's error: of several requested items, some may have succeeded. */
export const answerOf = <A>(error: unknown): A | undefined =>
  // the client keeps the answer of the failed request, so the caller knows its type
  error instanceof Error && "response" in error ? error.response as A : undefined
