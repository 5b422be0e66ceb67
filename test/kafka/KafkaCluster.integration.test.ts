/**
 * A cluster of three brokers with three replicas of each partition, of which two must be in sync.
 */
import { it } from "@effect/vitest"
import { KafkaCluster as Servers } from "@millrace/testing/servers"
import { Effect, Fiber } from "effect"
import { subscribe, unsubscribe } from "node:diagnostics_channel"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import {
  classic,
  type Client,
  consumer,
  consuming,
  eventually,
  fresh,
  kafkajs,
  outgoing,
  quick,
  textOf
} from "./support.ts"

const rackAware = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
const properties = (index: number) => ({
  "broker.rack": `r${index}`,
  "replica.selector.class": rackAware,
  "group.consumer.min.heartbeat.interval.ms": "100",
  "group.consumer.heartbeat.interval.ms": "250",
  "group.consumer.min.session.timeout.ms": "1000",
  "group.consumer.session.timeout.ms": "6000"
})

const rate = 200
const seconds = 8

/** The node that leads the partition of a topic, by its index. */
const leaderOf = (cluster: Servers.KafkaCluster, channel: string) =>
  Effect.promise(async () => {
    const { Admin } = await import("@platformatic/kafka")
    const admin = new Admin({ clientId: "test", bootstrapBrokers: Array.from(cluster.brokers) })
    const { brokers, topics } = await admin.metadata({ topics: [channel] })
    await admin.close()
    const found = brokers.get(topics.get(channel)!.partitions[0]!.leader)!
    return cluster.brokers.indexOf(`${found.host}:${found.port}`)
  })

describeServer("X3 a Kafka of three brokers", Servers.own({ properties }), (cluster) => {
  const options = () => ({ brokers: cluster().brokers, consumer: quick })

  it.live(
    "F17 messages are fetched from the replica in the consumer's rack, and the leader is asked where it is gone",
    () =>
      Effect.gen(function*() {
        const channel = fresh("racks")
        const plain = yield* classic.driver(options())
        yield* plain.declare({ channel, partitions: 1 })
        const leader = yield* leaderOf(cluster(), channel)
        const near = (leader + 1) % 3
        const driver = yield* classic.driver({ ...options(), consumer: { ...quick, rack: `r${near}` } })
        const fetched: Array<number> = []
        const note = (message: unknown) => {
          const { apiKey, connection } = message as { apiKey: number; connection: { port: number; host: string } }
          if (apiKey === 1) fetched.push(cluster().brokers.indexOf(`${connection.host}:${connection.port}`))
        }
        subscribe("tracing:plt:kafka:connections:api:start", note)
        yield* Effect.addFinalizer(() =>
          Effect.sync(() => unsubscribe("tracing:plt:kafka:connections:api:start", note))
        )
        const { recorder } = yield* consuming(driver, { channel, group: fresh("group") })
        const send = (text: string) => plain.publish([outgoing(channel, text)])
        yield* send("a")
        yield* eventually(() => recorder.texts.includes("a"))
        // the leader answers first, and names the replica
        yield* eventually(() => fetched.at(-1) === near)
        yield* send("b")
        yield* eventually(() => recorder.texts.includes("b"))
        expect(fetched.slice(-3)).toEqual([near, near, near])
        yield* cluster().nodes[near]!.kill
        yield* send("c")
        yield* eventually(() => recorder.texts.includes("c"))
        expect(recorder.texts).toEqual(["a", "b", "c"])
        yield* cluster().nodes[near]!.start
      }).pipe(Effect.scoped),
    120_000
  )

  const failing = (client: Client) =>
    it.live(
      `X3 X9 the leader is killed under load by ${client.name}: nothing confirmed is lost, and both sides go on`,
      () =>
        Effect.gen(function*() {
          const channel = fresh("leader")
          const driver = yield* client.driver(options())
          yield* driver.declare({ channel, partitions: 1 })
          const { fiber, recorder } = yield* consuming(driver, { channel, group: fresh("group") })
          const confirmed: Array<string> = []
          let slowest = 0
          const publishing = yield* Effect.forkChild(Effect.gen(function*() {
            for (let n = 0; n < rate * seconds; n += 10) {
              const began = performance.now()
              const batch = Array.from({ length: 10 }, (_, i) => `m${n + i}`)
              yield* driver.publish(batch.map((text) => outgoing(channel, text)))
              confirmed.push(...batch)
              slowest = Math.max(slowest, performance.now() - began)
              yield* Effect.sleep(10_000 / rate)
            }
          }))
          yield* eventually(() => recorder.taken.length > rate)
          const leader = yield* leaderOf(cluster(), channel)
          yield* cluster().nodes[leader]!.kill
          const killed = performance.now()
          const before = confirmed.length
          yield* eventually(() => confirmed.length > before + rate)
          const taken = recorder.taken.length
          yield* eventually(() => recorder.taken.length > taken)
          yield* Effect.log(
            `${client.name}: 200 more were confirmed ${
              Math.round(performance.now() - killed)
            } ms after the kill; the slowest publish took ${Math.round(slowest)} ms`
          )
          yield* Fiber.join(publishing)
          expect(confirmed.length).toBe(rate * seconds)
          const isLost = () => {
            const found = new Set(recorder.taken.map(({ raw }) => textOf(raw)))
            return confirmed.filter((text) => !found.has(text))
          }
          yield* eventually(() => isLost().length === 0)
          // an idempotent producer writes nothing twice, and the member has not lost its partition
          expect(recorder.texts.length).toBe(confirmed.length)
          expect(fiber.pollUnsafe()).toBeUndefined()
          yield* cluster().nodes[leader]!.start
        }).pipe(Effect.scoped),
      120_000
    )
  for (const client of [classic, consumer, kafkajs]) failing(client)
})
