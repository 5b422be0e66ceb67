import { Lanes } from "@millrace/core"
import { RabbitMq } from "@millrace/rabbitmq"
import { RabbitMq as Server } from "@millrace/testing/servers"
import { type RmqContext, Transport } from "@nestjs/microservices"
import { type Channel as Raw, connect, type ConsumeMessage } from "amqplib"
import { Effect, Redacted } from "effect"
import { type Bench, type Measured, scaled } from "./Bench.ts"
import * as Moleculer from "./brokerPeers/moleculer.ts"
import * as Nest from "./brokerPeers/nest.ts"
import { body, environment, fresh, Progress, read, serve } from "./reading.ts"

const urlName = "MILLRACE_BENCH_RABBITMQ"
const count = scaled(120_000)
/** What waits for each message's round trip gets fewer of them. */
const fewer = scaled(3_000)
/** What every client may have on its way, but for who takes one at a time. */
const prefetch = 1024

const share = () => serve(Effect.map(Server.make(), (server) => ({ [urlName]: Redacted.value(server.url) })))

const group = "bench"
const arguments_ = { "x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000 }

/** Runs with a full quorum queue of its own, as our groups have: a body, a key and two headers each. */
const withQueue = async (messages: number, run: (queue: string) => Promise<Measured>): Promise<Measured> => {
  const client = await connect(environment(urlName), { noDelay: true })
  const channel = await client.createConfirmChannel()
  const queue = `${group}.${fresh()}`
  await channel.assertQueue(queue, { arguments: arguments_ })
  for (let i = 0; i < messages; i += 1000) {
    for (let k = i; k < Math.min(messages, i + 1000); k++) {
      channel.sendToQueue(queue, body, {
        persistent: true,
        headers: { "millrace-key": `key-${k % 1000}`, "content-type": "text/plain", n: String(k) }
      })
    }
    await channel.waitForConfirms()
  }
  try {
    return await run(queue)
  } finally {
    await channel.deleteQueue(queue)
    await client.close()
  }
}

const ours = (lanes: Lanes.Lanes) => (): Promise<Measured> =>
  withQueue(count, (queue) =>
    read(
      new Progress(count),
      RabbitMq.layer({ url: environment(urlName), prefetch, channels: { bench: { queue } } }),
      "bench",
      { group: "bench", lanes }
    ))

interface Way {
  readonly count: number
  readonly prefetch: number
  readonly settle: (channel: Raw, message: ConsumeMessage, n: number) => void
}

const raw = (way: Way) => (): Promise<Measured> =>
  withQueue(way.count, async (queue) => {
    const progress = new Progress(way.count)
    const client = await connect(environment(urlName), { noDelay: true })
    const channel = await client.createChannel()
    await channel.prefetch(way.prefetch)
    let n = 0
    await channel.consume(queue, (message) => {
      if (message === null) throw new Error("The consumer was cancelled")
      progress.add(message.content.length)
      way.settle(channel, message, ++n)
    })
    const measured = await progress.finished
    await client.close()
    return measured
  })

const nest = (): Promise<Measured> =>
  withQueue(count, async (queue) => {
    const progress = new Progress(count)
    const options = {
      urls: [environment(urlName)],
      queue,
      noAssert: true,
      noAck: false,
      prefetchCount: prefetch,
      socketOptions: { connectionOptions: { noDelay: true } },
      // what is not from a client of its own has no pattern
      deserializer: { deserialize: (data: unknown) => ({ pattern: group, data }) }
    }
    const app = await Nest.listen({ transport: Transport.RMQ, options }, group, (text: string, context: RmqContext) => {
      // it has parsed the body, a text with two quotes
      progress.add(text.length + 2)
      context.getChannelRef().ack(context.getMessage())
    })
    const measured = await progress.finished
    await app.close()
    return measured
  })

const moleculer = (): Promise<Measured> =>
  withQueue(count, async (queue) => {
    const progress = new Progress(count)
    const amqp = {
      url: environment(urlName),
      socketOptions: { noDelay: true },
      exchangeOptions: { autoDelete: true },
      queueOptions: { arguments: arguments_ }
    }
    const broker = await Moleculer.listen(
      "AMQP",
      { maxInFlight: prefetch, amqp },
      { name: queue.slice(group.length + 1), group },
      (content) => progress.add(content.length)
    )
    const measured = await progress.finished
    await broker.stop()
    return measured
  })

const each: Way["settle"] = (channel, message) => channel.ack(message)
const many = (every: number, of: number): Way["settle"] => (channel, message, n) => {
  if (n % every === 0 || n === of) channel.ack(message, true)
}

const best = "amqplib, one ack for 100"
const single = "amqplib, ack each"

/** P16: what the engine and eight middlewares add to amqplib. */
export const rabbitmq: Bench = {
  name: "rabbitmq",
  about: "a full quorum queue of a real RabbitMQ read to its end, 8 trivial middlewares, beside amqplib without any",
  rounds: 5,
  share,
  variants: [
    { name: "millrace", whose: "millrace", run: ours(Lanes.unordered(1000)) },
    { name: best, whose: "limit", run: raw({ count, prefetch, settle: many(100, count) }) },
    { name: single, whose: "peer", run: raw({ count, prefetch, settle: each }) },
    { name: "millrace, in order", whose: "millrace", run: ours(Lanes.partition) },
    {
      name: "amqplib as one writes it first: prefetch 1, ack each",
      whose: "peer",
      run: raw({ count: fewer, prefetch: 1, settle: each })
    },
    { name: "NestJS", whose: "peer", run: nest },
    { name: "Moleculer channels", whose: "peer", run: moleculer }
  ],
  goals: [
    {
      id: "P16",
      text: "messages for each second of CPU, as a share of amqplib with one ack for 100",
      target: 0.95,
      better: "higher",
      measured: (of) => of(best).cpu / of("millrace").cpu
    },
    {
      id: "P16",
      text: "messages for each second of CPU, times amqplib that acknowledges each",
      target: 1.4,
      better: "higher",
      measured: (of) => of(single).cpu / of("millrace").cpu
    },
    {
      id: "P16",
      text: "messages for each second of CPU, times NestJS",
      target: 1,
      better: "higher",
      measured: (of) => of("NestJS").cpu / of("millrace").cpu
    }
  ]
}
