import { Broker, Headers, Lanes, Outgoing } from "@millrace/core"
import { Kafka } from "@millrace/kafka"
import * as KafkaJs from "@millrace/kafka/KafkaJs"
import { Kafka as Server } from "@millrace/testing/servers"
import { Transport } from "@nestjs/microservices"
import { Effect, Exit, Layer, Scope } from "effect"
import { Consumer, Producer } from "@platformatic/kafka"
import { type Admin, type EachBatchPayload, Kafka as Client, logLevel } from "kafkajs"
import { Socket } from "node:net"
import { type Bench, type Measured, scaled, stopwatch } from "./Bench.ts"
import * as Moleculer from "./brokerPeers/moleculer.ts"
import * as Nest from "./brokerPeers/nest.ts"
import { body, environment, fresh, Progress, read, serve } from "./reading.ts"

const brokersName = "MILLRACE_BENCH_BROKERS"
const topicName = "MILLRACE_BENCH_TOPIC"
const partitions = 8
const count = scaled(600_000)
/** How long Kafka may hold an answer back until there is more to tell. */
const maximumWait = 100

const client = (brokers: string) =>
  new Client({ clientId: "bench", brokers: brokers.split(","), logLevel: logLevel.NOTHING })

const withAdmin = async <A>(brokers: string, run: (admin: Admin) => Promise<A>): Promise<A> => {
  const admin = client(brokers).admin()
  await admin.connect()
  try {
    return await run(admin)
  } finally {
    await admin.disconnect()
  }
}

/** A body, a key and a header each. */
const fill = async (brokers: string, topic: string, messages: number): Promise<void> => {
  await withAdmin(brokers, (admin) => admin.createTopics({ topics: [{ topic, numPartitions: partitions }] }))
  // a batch that is sent again is written once
  const producer = client(brokers).producer({ idempotent: true })
  await producer.connect()
  const headers = { "content-type": "text/plain" }
  for (let i = 0; i < messages; i += 2_000) {
    await producer.send({
      topic,
      messages: Array.from({ length: 2_000 }, (_, k) => ({
        key: `key-${(i + k) % 1_000}`,
        value: body,
        headers,
        partition: (i + k) % partitions
      }))
    })
  }
  await producer.disconnect()
  const ends = await withAdmin(brokers, (admin) => admin.fetchTopicOffsets(topic))
  const written = ends.reduce((sum, { high }) => sum + Number(high), 0)
  if (written !== messages) throw new Error(`${written} of ${messages} messages are in the topic`)
}

/** One Kafka with one full topic for all variants: each reads it as a group of its own, from the beginning. */
const share = () =>
  serve(Effect.gen(function*() {
    const server = yield* Server.make({ jvm: [] })
    const brokers = server.brokers.join(",")
    const topic = `bench-${process.pid}-${Date.now()}`
    // the Kafka may be somebody's own
    yield* Effect.acquireRelease(
      Effect.promise(() => fill(brokers, topic, count)),
      () => Effect.promise(() => withAdmin(brokers, (admin) => admin.deleteTopics({ topics: [topic] })))
    )
    return { [brokersName]: brokers, [topicName]: topic }
  }))

let commits: number | undefined

/** Every client here writes requests with the number of their kind in the fifth and sixth byte; 8 is OffsetCommit. */
const countCommits = (): void => {
  commits = 0
  const { write } = Socket.prototype
  Socket.prototype.write = function(this: Socket, ...args: Parameters<typeof write>) {
    const [chunk] = args
    if (Buffer.isBuffer(chunk) && chunk.length > 6 && chunk.readInt16BE(4) === 8) commits!++
    return write.apply(this, args)
  } as typeof write
}

/** Counts messages, and commits beside them. */
const counting = (all = count): Progress => {
  if (commits === undefined) countCommits()
  return new Progress(all, {
    watch: () => {
      const before = commits!
      const stop = stopwatch()
      return (messages) => ({ ...stop(messages), commits: commits! - before })
    }
  })
}

/** A group that has read nothing yet. */
const freshGroup = (topic: string): string => `${topic}-${fresh()}`

const ours = (engine: typeof Kafka.layer, lanes: Lanes.Lanes) => (): Promise<Measured> => {
  const topic = environment(topicName)
  const layer = engine({ brokers: environment(brokersName), consumer: { maximumWait } })
  return read(counting(), layer, topic, { group: freshGroup(topic), lanes })
}

interface Way {
  readonly each: "batch" | "message"
  readonly concurrently: number
}

const raw = ({ concurrently, each }: Way) => async (): Promise<Measured> => {
  const progress = counting()
  const topic = environment(topicName)
  const consumer = client(environment(brokersName)).consumer({
    groupId: freshGroup(topic),
    maxWaitTimeInMs: maximumWait
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const eachBatch = async ({ batch }: EachBatchPayload) => {
    let bytes = 0
    for (const { value } of batch.messages) bytes += value!.length
    progress.add(bytes, batch.messages.length)
  }
  await consumer.run({
    partitionsConsumedConcurrently: concurrently,
    ...each === "batch"
      ? { eachBatch }
      : { eachMessage: async ({ message }) => progress.add(message.value!.length) }
  })
  const measured = await progress.finished
  await consumer.disconnect()
  return measured
}

const stream = async () => {
  const topic = environment(topicName)
  const consumer = new Consumer({
    clientId: "bench",
    groupId: freshGroup(topic),
    bootstrapBrokers: environment(brokersName).split(","),
    autocommit: 1000,
    maxWaitTime: maximumWait,
    // as much as the others fetch at once
    maxBytesPerPartition: 1_048_576
  })
  const messages = await consumer.consume({ topics: [topic], mode: "earliest" })
  return { messages, close: () => consumer.close(true) }
}

/** @platformatic/kafka's fastest way: its listener, which nothing holds back. */
const rawData = async (): Promise<Measured> => {
  const progress = counting()
  const { close, messages } = await stream()
  messages.on("data", ({ value }) => progress.add(value.length))
  const measured = await progress.finished
  await close()
  return measured
}

/** Its way with back-pressure. */
const rawForAwait = async (): Promise<Measured> => {
  const progress = counting()
  const { close, messages } = await stream()
  for await (const { value } of messages) {
    progress.add(value.length)
    if (progress.complete) break
  }
  const measured = await progress.finished
  await close()
  return measured
}

const nest = async (): Promise<Measured> => {
  const progress = counting()
  const topic = environment(topicName)
  const options = {
    client: { brokers: environment(brokersName).split(","), logLevel: logLevel.NOTHING },
    consumer: { groupId: freshGroup(topic), maxWaitTimeInMs: maximumWait },
    subscribe: { fromBeginning: true },
    parser: { keepBinary: true }
  }
  const app = await Nest.listen(
    { transport: Transport.KAFKA, options },
    topic,
    (value: Buffer) => progress.add(value.length)
  )
  const measured = await progress.finished
  await app.close()
  return measured
}

/** It waits for the commit of each message: it reads so many. */
const few = scaled(3_000)

const moleculer = async (): Promise<Measured> => {
  const progress = counting(few)
  const topic = environment(topicName)
  const broker = await Moleculer.listen(
    "Kafka",
    { kafka: { brokers: environment(brokersName).split(","), logLevel: logLevel.NOTHING } },
    { name: topic, group: fresh(), kafka: { fromBeginning: true, maxWaitTimeInMs: maximumWait } },
    (value) => {
      if (!progress.complete) progress.add(value.length)
    }
  )
  const measured = await progress.finished
  await broker.stop()
  return measured
}

const written = scaled(200_000)
/** Messages that are given at once. */
const together = 1_000

/** Writes batches to a topic of its own; the first third is not measured. */
const writing = async (
  open: (topic: string) => Promise<{ send: (from: number) => Promise<unknown>; close: () => Promise<unknown> }>
): Promise<Measured> => {
  const topic = `${environment(topicName)}-${fresh()}-written`
  const brokers = environment(brokersName)
  await withAdmin(brokers, (admin) => admin.createTopics({ topics: [{ topic, numPartitions: partitions }] }))
  const { close, send } = await open(topic)
  let stop: ((count: number) => Measured) | undefined
  let from = 0
  for (let i = 0; i < written; i += together) {
    if (stop === undefined && i >= written / 3) {
      from = i
      stop = stopwatch()
    }
    await send(i)
  }
  const measured = stop!(written - from)
  await close()
  const ends = await withAdmin(brokers, (admin) => admin.fetchTopicOffsets(topic))
  await withAdmin(brokers, (admin) => admin.deleteTopics({ topics: [topic] }))
  const found = ends.reduce((sum, { high }) => sum + Number(high), 0)
  if (found < written) throw new Error(`${found} of ${written} messages were written`)
  return measured
}

const batchOf = <A>(from: number, make: (key: string) => A): Array<A> =>
  Array.from({ length: together }, (_, i) => make(`key-${(from + i) % 1_000}`))

const write = (engine: typeof Kafka.layer) => () =>
  writing(async (topic) => {
    const scope = Scope.makeUnsafe()
    const brokers = environment(brokersName)
    const context = await Effect.runPromise(Scope.provide(Layer.build(engine({ brokers })), scope))
    const headers = Headers.fromRecord({ "content-type": "text/plain" })
    return {
      send: (from) =>
        Effect.runPromise(Effect.provide(
          Effect.flatMap(
            Broker.Broker,
            (broker) => broker.publishAll(batchOf(from, (key) => new Outgoing(topic, body, key, headers)))
          ),
          context
        )),
      close: () => Effect.runPromise(Scope.close(scope, Exit.void))
    }
  })

const headers = { "content-type": "text/plain" }

const writeKafkajs = () =>
  writing(async (topic) => {
    const producer = client(environment(brokersName)).producer({ idempotent: true })
    await producer.connect()
    return {
      send: (from) => producer.send({ topic, messages: batchOf(from, (key) => ({ key, value: body, headers })) }),
      close: () => producer.disconnect()
    }
  })

const writePlatformatic = () =>
  writing(async (topic) => {
    const producer = new Producer<Buffer, Buffer, Buffer, Buffer>({
      clientId: "bench",
      bootstrapBrokers: environment(brokersName).split(","),
      idempotent: true
    })
    const name = Buffer.from("content-type")
    const value = Buffer.from("text/plain")
    return {
      send: (from) =>
        producer.send({
          messages: batchOf(from, (key) => ({
            topic,
            key: Buffer.from(key),
            value: body,
            headers: new Map([[name, value]])
          }))
        }),
      close: () => producer.close()
    }
  })

/** P6, P7: what the engine and eight middlewares add to each client. */
export const kafka: Bench = {
  name: "kafka",
  about:
    "a full topic of a real Kafka read to its end, 8 trivial middlewares, beside its clients without any; and batches written",
  rounds: 5,
  share,
  variants: [
    { name: "millrace on kafkajs, by partition", whose: "millrace", run: ours(KafkaJs.layer, Lanes.partition) },
    { name: "kafkajs eachBatch", whose: "limit", run: raw({ each: "batch", concurrently: 1 }) },
    { name: "kafkajs eachMessage", whose: "peer", run: raw({ each: "message", concurrently: 1 }) },
    { name: "millrace on kafkajs, by key", whose: "millrace", run: ours(KafkaJs.layer, Lanes.key(256)) },
    { name: "kafkajs eachBatch, 8 partitions at once", whose: "limit", run: raw({ each: "batch", concurrently: 8 }) },
    { name: "millrace, by partition", whose: "millrace", run: ours(Kafka.layer, Lanes.partition) },
    { name: "millrace, by key", whose: "millrace", run: ours(Kafka.layer, Lanes.key(256)) },
    { name: "platformatic 'data'", whose: "limit", run: rawData },
    { name: "platformatic for await", whose: "peer", run: rawForAwait },
    { name: "NestJS", whose: "peer", run: nest },
    { name: "Moleculer channels", whose: "peer", run: moleculer },
    { name: "millrace on kafkajs writes", whose: "millrace", run: write(KafkaJs.layer) },
    { name: "kafkajs writes", whose: "peer", run: writeKafkajs },
    { name: "millrace writes", whose: "millrace", run: write(Kafka.layer) },
    { name: "platformatic writes", whose: "peer", run: writePlatformatic }
  ],
  goals: [
    {
      id: "P6",
      text: "on kafkajs: messages for each second of CPU, as a share of raw eachBatch",
      target: 0.95,
      better: "higher",
      measured: (of) => of("kafkajs eachBatch").cpu / of("millrace on kafkajs, by partition").cpu
    },
    {
      id: "P6",
      text: "on kafkajs: messages for each second of CPU, times raw eachMessage",
      target: 1.25,
      better: "higher",
      measured: (of) => of("kafkajs eachMessage").cpu / of("millrace on kafkajs, by partition").cpu
    },
    {
      id: "P7",
      text: "messages for each second of CPU, as a share of its raw 'data' listener",
      target: 0.85,
      better: "higher",
      measured: (of) => of("platformatic 'data'").cpu / of("millrace, by partition").cpu
    },
    {
      id: "P7",
      text: "messages for each second of CPU, times its raw for await",
      target: 1.2,
      better: "higher",
      measured: (of) => of("platformatic for await").cpu / of("millrace, by partition").cpu
    },
    {
      id: "P7",
      text: "messages for each second of CPU, times raw kafkajs eachMessage",
      target: 1.5,
      better: "higher",
      measured: (of) => of("kafkajs eachMessage").cpu / of("millrace, by partition").cpu
    },
    {
      id: "P16",
      text: "messages for each second of CPU, times NestJS",
      target: 1,
      better: "higher",
      measured: (of) => of("NestJS").cpu / of("millrace, by partition").cpu
    }
  ]
}
