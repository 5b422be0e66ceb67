import { Lanes } from "@millrace/core"
import { JetStream } from "@millrace/nats"
import { Nats as Server } from "@millrace/testing/servers"
import { AckPolicy, jetstream, jetstreamManager, type JsMsg } from "@nats-io/jetstream"
import { connect, headers, type NatsConnection } from "@nats-io/transport-node"
import { Effect, Redacted } from "effect"
import { type Bench, type Measured, scaled } from "./Bench.ts"
import * as Moleculer from "./brokerPeers/moleculer.ts"
import { body, environment, fresh, Progress, read, serve } from "./reading.ts"

const serverName = "MILLRACE_BENCH_NATS"
const channelName = "MILLRACE_BENCH_SUBJECT"
const count = scaled(150_000)
/** What both may have in flight. */
const window = 4096

/** A body, a key and a header each. */
const fill = async (server: string, channel: string): Promise<void> => {
  const nc = await connect({ servers: server })
  const manager = await jetstreamManager(nc)
  await manager.streams.add({ name: channel, subjects: [channel] })
  for (let i = 0; i < count; i += 500) {
    for (let k = 0; k < Math.min(500, count - i); k++) {
      const fields = headers()
      fields.set("content-type", "text/plain")
      fields.set("Millrace-Key", `key-${(i + k) % 1000}`)
      nc.publish(channel, body, { headers: fields })
    }
    await nc.flush()
  }
  const { state } = await manager.streams.info(channel)
  await nc.close()
  if (state.messages !== count) throw new Error(`${state.messages} of ${count} messages are in the stream`)
}

/** One NATS with one full stream for all variants: each reads it as a group of its own, from the beginning. */
const share = () =>
  serve(Effect.gen(function*() {
    const server = yield* Server.own()
    const address = Redacted.value(server.url)
    const channel = `bench-${process.pid}-${Date.now()}`
    yield* Effect.promise(() => fill(address, channel))
    return { [serverName]: address, [channelName]: channel }
  }))

const ours = (lanes: Lanes.Lanes) => (): Promise<Measured> =>
  read(new Progress(count), JetStream.layer({ servers: environment(serverName) }), environment(channelName), {
    group: fresh(),
    lanes
  })

interface Way {
  readonly policy: AckPolicy
  /** Acknowledges a message, the n-th. */
  readonly settle: (message: JsMsg, n: number) => void
}

const consumerOf = async (nc: NatsConnection, policy: AckPolicy) => {
  const channel = environment(channelName)
  const name = fresh()
  const manager = await jetstreamManager(nc)
  await manager.consumers.add(channel, { durable_name: name, ack_policy: policy, max_ack_pending: 20_000 })
  return await jetstream(nc).consumers.get(channel, name)
}

const raw = ({ policy, settle }: Way) => async (): Promise<Measured> => {
  const progress = new Progress(count)
  const nc = await connect({ servers: environment(serverName) })
  const consumer = await consumerOf(nc, policy)
  const reading = (async () => {
    let n = 0
    for await (const message of await consumer.consume({ max_messages: window })) {
      progress.add(message.data.length)
      settle(message, ++n)
    }
  })()
  const measured = await progress.finished
  await nc.close()
  await reading
  return measured
}

/** What the first page of the client's documentation shows: 100 messages, then the next 100. */
const naive = async (): Promise<Measured> => {
  const progress = new Progress(count)
  const nc = await connect({ servers: environment(serverName) })
  const consumer = await consumerOf(nc, AckPolicy.Explicit)
  let isRunning = true
  const reading = (async () => {
    while (isRunning) {
      for await (const message of await consumer.fetch({ max_messages: 100, expires: 1000 })) {
        progress.add(message.data.length)
        message.ack()
      }
    }
  })()
  const measured = await progress.finished
  isRunning = false
  await reading
  await nc.close()
  return measured
}

const moleculer = async (): Promise<Measured> => {
  const progress = new Progress(count)
  const servers = environment(serverName)
  const broker = await Moleculer.listen(
    "NATS",
    { nats: { connectionOptions: { servers }, consumerOptions: { config: { deliver_policy: "all" } } } },
    { name: environment(channelName), group: fresh(), maxInFlight: window },
    (data) => progress.add(data.length)
  )
  const measured = await progress.finished
  await broker.stop()
  return measured
}

/** P16: what the engine, acknowledging and eight middlewares add to the client. */
export const nats: Bench = {
  name: "nats",
  about: "a full stream of a real JetStream read to its end, 8 trivial middlewares, beside the raw client without any",
  rounds: 5,
  share,
  variants: [
    { name: "millrace, unordered", whose: "millrace", run: ours(Lanes.unordered(256)) },
    {
      name: "client, one acknowledgement for 100",
      whose: "limit",
      run: raw({
        policy: AckPolicy.All,
        settle: (message, n) => {
          if (n % 100 === 0) message.ack()
        }
      })
    },
    {
      name: "client, each acknowledged",
      whose: "peer",
      run: raw({ policy: AckPolicy.Explicit, settle: (message) => message.ack() })
    },
    { name: "client, fetch of 100, each acknowledged", whose: "peer", run: naive },
    { name: "Moleculer channels", whose: "peer", run: moleculer },
    { name: "millrace, by partition", whose: "millrace", run: ours(Lanes.partition) },
    { name: "millrace, by key", whose: "millrace", run: ours(Lanes.key(256)) }
  ],
  goals: [
    {
      id: "P16",
      text: "messages for each second of CPU, as a share of the client that acknowledges 100 at once",
      target: 0.95,
      better: "higher",
      measured: (of) => of("client, one acknowledgement for 100").cpu / of("millrace, unordered").cpu
    },
    {
      id: "P16",
      text: "messages for each second of CPU, times the client that acknowledges each",
      target: 2.5,
      better: "higher",
      measured: (of) => of("client, each acknowledged").cpu / of("millrace, unordered").cpu
    },
    {
      id: "P16",
      text: "messages for each second of CPU, times Moleculer channels",
      target: 1,
      better: "higher",
      measured: (of) => of("Moleculer channels").cpu / of("millrace, unordered").cpu
    }
  ]
}
