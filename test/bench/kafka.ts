import { Channel, type Handler, Lanes, type Message, Middleware, Subscription } from "@millrace/core"
import { Kafka } from "@millrace/kafka"
import { Kafka as Server } from "@millrace/testing/servers"
import { Effect, Exit, Layer, Scope } from "effect"
import { type Admin, type EachBatchPayload, Kafka as KafkaJs, logLevel } from "kafkajs"
import { Socket } from "node:net"
import { type Bench, type Measured, scaled, type Shared, stopwatch } from "./Bench.ts"

const brokersName = "MILLRACE_BENCH_BROKERS"
const topicName = "MILLRACE_BENCH_TOPIC"
const partitions = 8
/** Bytes of a body. */
const size = 250
const count = scaled(600_000)
/** Read before the clock starts, so that what is compiled while it runs is compiled. */
const before = count / 3
/** How long Kafka may hold an answer back until there is more to tell. */
const maximumWait = 100

const client = (brokers: string) =>
  new KafkaJs({ clientId: "bench", brokers: brokers.split(","), logLevel: logLevel.NOTHING })

const withAdmin = async <A>(brokers: string, run: (admin: Admin) => Promise<A>): Promise<A> => {
  const admin = client(brokers).admin()
  await admin.connect()
  try {
    return await run(admin)
  } finally {
    await admin.disconnect()
  }
}

const environment = (name: string): string => {
  const value = process.env[name]
  if (value === undefined) throw new Error(`${name} is set by the process that starts the variants`)
  return value
}

/** A body, a key and a header each. */
const fill = async (brokers: string, topic: string, messages: number): Promise<void> => {
  await withAdmin(brokers, (admin) => admin.createTopics({ topics: [{ topic, numPartitions: partitions }] }))
  // a batch that is sent again is written once
  const producer = client(brokers).producer({ idempotent: true })
  await producer.connect()
  const value = Buffer.alloc(size, "x")
  const headers = { "content-type": "text/plain" }
  for (let i = 0; i < messages; i += 2_000) {
    await producer.send({
      topic,
      messages: Array.from({ length: 2_000 }, (_, k) => ({
        key: `key-${(i + k) % 1_000}`,
        value,
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
const share = async (): Promise<Shared> => {
  const scope = Scope.makeUnsafe()
  const topic = `bench-${process.pid}-${Date.now()}`
  const close = () => Effect.runPromise(Scope.close(scope, Exit.void))
  try {
    const server = await Effect.runPromise(Scope.provide(Server.make({ jvm: [] }), scope))
    const brokers = server.brokers.join(",")
    await fill(brokers, topic, count)
    return {
      environment: { [brokersName]: brokers, [topicName]: topic },
      close: async () => {
        // the Kafka may be somebody's own
        await withAdmin(brokers, (admin) => admin.deleteTopics({ topics: [topic] }))
        await close()
      }
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** Counts messages, starts the clock after the first third, and completes with the last. */
class Progress {
  readonly finished: Promise<Measured>
  private seen = 0
  private bytes = 0
  private commits = 0
  private stop: ((count: number) => Measured) | undefined
  private from = 0
  private finish: (measured: Measured | Promise<Measured>) => void = () => {}

  constructor() {
    this.finished = new Promise((resolve) => this.finish = resolve)
    this.countCommits()
  }

  add(messages: number, bytes: number): void {
    this.bytes += bytes
    this.seen += messages
    if (this.stop === undefined && this.seen >= before) {
      this.commits = 0
      this.from = this.seen
      this.stop = stopwatch()
    }
    if (this.seen < count) return
    this.finish(
      this.seen === count && this.bytes === count * size
        ? { ...this.stop!(count - this.from), commits: this.commits }
        : Promise.reject(new Error(`${this.seen} messages with ${this.bytes} bytes were read, and there are ${count}`))
    )
  }

  /** Every client here writes requests with the number of their kind in the fifth and sixth byte; 8 is OffsetCommit. */
  private countCommits(): void {
    const { write } = Socket.prototype
    const count = (chunk: unknown) => {
      if (Buffer.isBuffer(chunk) && chunk.length > 6 && chunk.readInt16BE(4) === 8) this.commits++
    }
    Socket.prototype.write = function(this: Socket, ...args: Parameters<typeof write>) {
      count(args[0])
      return write.apply(this, args)
    } as typeof write
  }
}

let groups = 0
/** A group that has read nothing yet. */
const fresh = (topic: string): string => `${topic}-${process.pid}-${++groups}`

let hops = 0
const trivial = Middleware.make()({ name: "Trivial", stage: "consume" }, (next) => (message) => {
  hops++
  return next(message)
})

const ours = (lanes: Lanes.Lanes) => async (): Promise<Measured> => {
  const progress = new Progress()
  let handler: Handler<Message<Uint8Array>, void> = ({ payload }) => {
    progress.add(1, payload.length)
    return Effect.void
  }
  for (let i = 0; i < 8; i++) handler = trivial(handler)
  const topic = environment(topicName)
  const subscription = Subscription.make(Channel.bytes(topic), { group: fresh(topic), lanes }, handler)
  const layer = Subscription.layer(subscription).pipe(
    Layer.provide(Kafka.layer({ brokers: environment(brokersName), consumer: { maximumWait } }))
  )
  return Effect.runPromise(Effect.provide(Effect.promise(() => progress.finished), layer))
}

interface Way {
  readonly each: "batch" | "message"
  readonly concurrently: number
}

const raw = ({ concurrently, each }: Way) => async (): Promise<Measured> => {
  const progress = new Progress()
  const topic = environment(topicName)
  const consumer = client(environment(brokersName)).consumer({
    groupId: fresh(topic),
    maxWaitTimeInMs: maximumWait
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const eachBatch = async ({ batch }: EachBatchPayload) => {
    let bytes = 0
    for (const { value } of batch.messages) bytes += value!.length
    progress.add(batch.messages.length, bytes)
  }
  await consumer.run({
    partitionsConsumedConcurrently: concurrently,
    ...each === "batch"
      ? { eachBatch }
      : { eachMessage: async ({ message }) => progress.add(1, message.value!.length) }
  })
  const measured = await progress.finished
  await consumer.disconnect()
  return measured
}

/** P6: what the engine and eight middlewares add to kafkajs. */
export const kafka: Bench = {
  name: "kafka",
  about: "a full topic of a real Kafka read to its end, 8 trivial middlewares, beside kafkajs without any",
  rounds: 5,
  share,
  variants: [
    { name: "millrace, by partition", whose: "millrace", run: ours(Lanes.partition) },
    { name: "kafkajs eachBatch", whose: "limit", run: raw({ each: "batch", concurrently: 1 }) },
    { name: "kafkajs eachMessage", whose: "peer", run: raw({ each: "message", concurrently: 1 }) },
    { name: "millrace, by key", whose: "millrace", run: ours(Lanes.key(256)) },
    { name: "kafkajs eachBatch, 8 partitions at once", whose: "limit", run: raw({ each: "batch", concurrently: 8 }) }
  ],
  goals: [
    {
      id: "P6",
      text: "messages for each second of CPU, as a share of raw eachBatch",
      target: 0.95,
      better: "higher",
      measured: (of) => of("kafkajs eachBatch").cpu / of("millrace, by partition").cpu
    },
    {
      id: "P6",
      text: "messages for each second of CPU, times raw eachMessage",
      target: 1.25,
      better: "higher",
      measured: (of) => of("kafkajs eachMessage").cpu / of("millrace, by partition").cpu
    }
  ]
}
