import { Broker, type BrokerError, type Delivery, type Driver } from "@millrace/core"
import { Kafka } from "@millrace/kafka"
import * as KafkaJs from "@millrace/kafka/KafkaJs"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Effect, Exit, Fiber, type Layer, Scope, Stream } from "effect"
import { Admin, Base, type consumerGroupDescribeV0, kGetApi, kGetBootstrapConnection } from "@platformatic/kafka"
import { type Cluster, Kafka as KafkaClient, logLevel, PartitionAssigners } from "kafkajs"
import { pbkdf2Sync, randomBytes } from "node:crypto"
import { eventually, textOf } from "../services/driving.ts"

export { bytes, eventually, fresh, outgoing, textOf } from "../services/driving.ts"

/** Quick to notice, for tests. */
export const quick: Kafka.Options["consumer"] = {
  heartbeatInterval: "250 millis",
  sessionTimeout: "6 seconds",
  maximumWait: "100 millis",
  metadataMaxAge: "500 millis"
}

export const optionsOf = (server: Servers.KafkaServer, more?: Partial<Kafka.Options>): Kafka.Options => ({
  brokers: server.brokers,
  consumer: quick,
  ...more
})

/** Takes every member out of a group of the classic protocol behind its back, as a session that has run out does. */
const removeClassic = async (brokers: Array<string>, groupId: string): Promise<void> => {
  const client = new KafkaClient({ brokers, logLevel: logLevel.NOTHING })
  const admin = client.admin()
  await admin.connect()
  const { groups } = await admin.describeGroups([groupId])
  await admin.disconnect()
  let cluster: Cluster | undefined
  const consumer = client.consumer({
    groupId,
    partitionAssigners: [(config) => {
      cluster = config.cluster
      return PartitionAssigners.roundRobin(config)
    }]
  })
  await consumer.connect()
  await cluster!.refreshMetadata()
  // kafkajs's types leave out what its brokers can do beside what its users need
  const coordinator = await cluster!.findGroupCoordinator({ groupId }) as unknown as {
    leaveGroup(request: { readonly groupId: string; readonly memberId: string }): Promise<unknown>
  }
  for (const { memberId } of groups[0]!.members) await coordinator.leaveGroup({ groupId, memberId })
  await consumer.disconnect()
}

/** Sends a request of Kafka's protocol by its name. */
const ask = <A>(base: Base, name: string, ...args: ReadonlyArray<unknown>): Promise<A> =>
  new Promise((resolve, reject) =>
    base[kGetBootstrapConnection]((_, connection) =>
      base[kGetApi]<Array<unknown>, A>(name, (_, api) => api!.async(connection!, ...args).then(resolve, reject))
    )
  )

/** The same for the protocol "consumer". */
const removeConsumers = async (brokers: Array<string>, group: string): Promise<void> => {
  const base = new Base({ clientId: "test", bootstrapBrokers: brokers })
  const { groups } = await ask<consumerGroupDescribeV0.ConsumerGroupDescribeResponse>(
    base,
    "ConsumerGroupDescribe",
    [group],
    false
  )
  await ask(base, "LeaveGroup", group, groups[0]!.members.map(({ memberId }) => ({ memberId })))
  await base.close()
}

/** Sets the password of a user of SCRAM-SHA-256. */
export const setPassword = async (brokers: Array<string>, name: string, password: string): Promise<void> => {
  const base = new Base({ clientId: "test", bootstrapBrokers: brokers })
  const salt = randomBytes(16)
  const saltedPassword = pbkdf2Sync(password, salt, 4096, 32, "sha256")
  await ask(base, "AlterUserScramCredentials", [], [{ name, mechanism: 1, iterations: 4096, salt, saltedPassword }])
  await base.close()
}

/** A client library that the package runs on, and how. */
export interface Client {
  readonly name: string
  readonly driver: (options: Kafka.Options) => ReturnType<typeof Kafka.driver>
  readonly layer: (options: Kafka.Options) => ReturnType<typeof Kafka.layer>
  readonly layerConfig: () => ReturnType<typeof Kafka.layerConfig>
  readonly admin: (options: Kafka.Options) => ReturnType<typeof Kafka.layerAdmin>
  readonly transaction: typeof Kafka.layerTransaction
  /** Whether members keep what need not move. */
  readonly cooperative: boolean
  readonly removeMembers: (brokers: Array<string>, group: string) => Promise<void>
}

/** One that does not know the options of the other is given those that both know. */
export const kafkajs: Client = {
  name: "kafkajs",
  driver: KafkaJs.driver,
  layer: KafkaJs.layer,
  layerConfig: KafkaJs.layerConfig,
  admin: KafkaJs.layerAdmin,
  transaction: KafkaJs.layerTransaction,
  cooperative: false,
  removeMembers: removeClassic
}

const platformatic = (groupProtocol: "classic" | "consumer"): Client => ({
  name: `platformatic ${groupProtocol}`,
  driver: (options) => Kafka.driver({ ...options, groupProtocol }),
  layer: (options) => Kafka.layer({ ...options, groupProtocol }),
  layerConfig: () => Kafka.layerConfig({ groupProtocol }),
  admin: (options) => Kafka.layerAdmin({ ...options, groupProtocol }),
  transaction: Kafka.layerTransaction,
  cooperative: groupProtocol === "consumer",
  removeMembers: groupProtocol === "consumer" ? removeConsumers : removeClassic
})

export const classic = platformatic("classic")
export const consumer = platformatic("consumer")

export const clients: ReadonlyArray<Client> = [kafkajs, classic, consumer]

export const layerOf = (
  server: Servers.KafkaServer,
  more?: Partial<Kafka.Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError> => Kafka.layer(optionsOf(server, more))

/** What is in a topic, as text, in order of partition and position. */
export const contents = (channel: string) =>
  Effect.flatMap(Broker.Broker, (broker) => Stream.runCollect(broker.browse(channel))).pipe(
    Effect.map((found) => Array.from(found).sort((a, b) => a.partition - b.partition || a.position - b.position))
  )

/** A token without a signature that ends at a time. */
export const tokenOf = (expiresAt: number): string => {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url")
  const seconds = Math.floor(expiresAt / 1000)
  return `${part({ alg: "none" })}.${part({ sub: "app", iat: seconds - 3600, exp: seconds })}.`
}

/** An engine of a few lines: takes everything, settles when it is told to. */
export class Recorder implements Driver.Sink {
  readonly taken: Array<Delivery> = []
  readonly leases: Array<{ readonly lease: Driver.Lease; closed: "revoke" | "lost" | undefined }> = []
  readies = 0
  polls = 0
  /** Where set, `offer` answers it. */
  room: Effect.Effect<void> | undefined
  /** Runs when a lease is revoked. */
  onRevoke: (lease: Driver.Lease) => Effect.Effect<void> = () => Effect.void

  ready = () => {
    this.readies++
  }
  polled = () => {
    this.polls++
  }
  open = (lease: Driver.Lease) => {
    this.leases.push({ lease, closed: undefined })
  }
  offer = (_lease: Driver.Lease, batch: ReadonlyArray<Delivery>): Effect.Effect<void> => {
    this.taken.push(...batch)
    return this.room ?? (Effect.void as Exit.Exit<void>)
  }
  settled = () => Effect.void
  close = (lease: Driver.Lease, how: "revoke" | "lost") =>
    Effect.suspend(() => {
      const found = this.leases.find((each) => each.lease === lease)
      if (found === undefined || found.closed !== undefined) return Effect.void
      return Effect.andThen(
        how === "revoke" ? this.onRevoke(lease) : Effect.void,
        Effect.sync(() => {
          found.closed = how
        })
      )
    })

  /** The lease of a partition that is open now. */
  lease(partition: number): Driver.Lease {
    const found = this.leases.findLast((each) => each.lease.partition === partition && each.closed === undefined)
    if (found === undefined) throw new Error(`No lease of partition ${partition} is open`)
    return found.lease
  }

  get texts(): Array<string> {
    return this.taken.map((delivery) => textOf(delivery.raw))
  }
}

/** How a test consumes where it does not say. */
export const plain = {
  pattern: undefined,
  handler: "test",
  from: "earliest",
  ordered: true,
  messages: 1000,
  batch: 100,
  bytes: 64 * 1024 * 1024
} as const

/** Consumes by a driver alone, until stopped or at the latest with the scope; is ready when this completes. */
export const consuming = (
  driver: Driver.Driver,
  options: Partial<Driver.ConsumeOptions> & { readonly group: string }
) =>
  Effect.gen(function*() {
    const recorder = new Recorder()
    const scope = yield* Scope.fork(yield* Effect.scope)
    const fiber = yield* Effect.forkDetach(
      Scope.provide(driver.consume({ ...plain, channel: "", ...options }, recorder), scope),
      { startImmediately: true }
    )
    yield* Effect.addFinalizer(() => Fiber.interrupt(fiber))
    yield* eventually(() => recorder.readies > 0 || fiber.pollUnsafe() !== undefined)
    return { recorder, fiber, stop: Effect.andThen(Fiber.interrupt(fiber), Scope.close(scope, Exit.void)) }
  })

const withAdmin = async (brokers: Array<string>, use: (admin: Admin) => Promise<unknown>): Promise<void> => {
  const admin = new Admin({ clientId: "test", bootstrapBrokers: brokers })
  await use(admin)
  await admin.close()
}

/** Drops what is below a position, as retention does. */
export const forget = (brokers: Array<string>, topic: string, partition: number, offset: number): Promise<void> =>
  withAdmin(
    brokers,
    (admin) => admin.deleteRecords({ topics: [{ name: topic, partitions: [{ partition, offset: BigInt(offset) }] }] })
  )

/** Adds partitions to a topic, up to `count`. */
export const grow = (brokers: Array<string>, topic: string, count: number): Promise<void> =>
  withAdmin(brokers, (admin) => admin.createPartitions({ topics: [{ name: topic, count, assignments: null }] }))
