import { Channel, type Handler, Lanes, type Message, Middleware, Subscription } from "@millrace/core"
import { Mqtt } from "@millrace/mqtt"
import { Mosquitto } from "@millrace/testing/servers"
import { Effect, Exit, Layer, Redacted, Scope } from "effect"
import { connect, type IClientOptions, type MqttClient } from "mqtt"
import { type Bench, type Measured, scaled, type Shared, stopwatch } from "./Bench.ts"

const urlName = "MILLRACE_BENCH_MQTT"
/** Bytes of a body. */
const size = 250
const count = scaled(90_000)
/** Read before the clock starts, so that what is compiled while it runs is compiled. */
const before = count / 3
const receiveMaximum = 1024

const environment = (name: string): string => {
  const value = process.env[name]
  if (value === undefined) throw new Error(`${name} is set by the process that starts the variants`)
  return value
}

const open = (url: string, options: IClientOptions): Promise<MqttClient> =>
  new Promise((resolve, reject) => {
    const client = connect(url, { protocolVersion: 5, reconnectPeriod: 0, log: () => {}, ...options })
    client.on("connect", () => resolve(client))
    client.on("error", reject)
  })

/** Where the process that is not measured is asked for messages. */
const request = "bench/fill"

/** A body, a key and a header each. */
const fill = async (client: MqttClient, topic: string, qos: 0 | 1): Promise<void> => {
  const payload = Buffer.alloc(size, "x")
  for (let i = 0; i < count; i += 500) {
    await Promise.all(Array.from({ length: Math.min(500, count - i) }, (_, k) =>
      client.publishAsync(topic, payload, {
        qos,
        properties: { contentType: "text/plain", userProperties: { "millrace-key": `key-${(i + k) % 1_000}` } }
      })))
  }
}

/** One Mosquitto for all variants, and a client here that publishes what they ask for: its work is not theirs. */
const share = async (): Promise<Shared> => {
  const scope = Scope.makeUnsafe()
  const settings = ["max_inflight_messages 0", "autosave_interval 3600"]
  const server = await Effect.runPromise(Scope.provide(Mosquitto.make({ settings }), scope))
  const url = Redacted.value(server.url)
  const client = await open(url, { clean: true })
  client.on("message", (topic, body) => {
    const [channel = "", qos] = body.toString().split(" ")
    if (topic === request) void fill(client, channel, qos === "1" ? 1 : 0)
  })
  await client.subscribeAsync(request, { qos: 1 })
  return {
    environment: { [urlName]: url },
    close: async () => {
      await client.endAsync(true)
      await Effect.runPromise(Scope.close(scope, Exit.void))
    }
  }
}

let names = 0
/** A name that no other variant has. */
const fresh = (): string => `bench-${process.pid}-${++names}`

/** Counts messages, starts the clock after the first third, and completes with the last. */
class Progress {
  readonly finished: Promise<Measured>
  private seen = 0
  private bytes = 0
  private stop: ((count: number) => Measured) | undefined
  private from = 0
  private finish: (measured: Measured | Promise<Measured>) => void = () => {}

  constructor() {
    this.finished = new Promise((resolve) => this.finish = resolve)
  }

  add(bytes: number): void {
    this.bytes += bytes
    this.seen++
    if (this.stop === undefined && this.seen >= before) {
      this.from = this.seen
      this.stop = stopwatch()
    }
    if (this.seen < count) return
    this.finish(
      this.seen === count && this.bytes === count * size
        ? this.stop!(count - this.from)
        : Promise.reject(new Error(`${this.seen} messages with ${this.bytes} bytes were read, and there are ${count}`))
    )
  }
}

const ask = async (channel: string, qos: 0 | 1): Promise<void> => {
  const client = await open(environment(urlName), { clean: true })
  await client.publishAsync(request, `${channel} ${qos}`, { qos: 1 })
  await client.endAsync()
}

let hops = 0
const trivial = Middleware.make()({ name: "Trivial", stage: "consume" }, (next) => (message) => {
  hops++
  return next(message)
})

const ours = (qos: 0 | 1, sharing: "group" | "exclusive", lanes: Lanes.Lanes) => async (): Promise<Measured> => {
  const progress = new Progress()
  let handler: Handler<Message<Uint8Array>, void> = ({ payload }) => {
    progress.add(payload.length)
    return Effect.void
  }
  for (let i = 0; i < 8; i++) handler = trivial(handler)
  const channel = fresh()
  const subscription = Subscription.make(Channel.bytes(channel), { group: channel, lanes }, handler)
  const layer = Subscription.layer(subscription).pipe(
    Layer.provide(
      Mqtt.layer({ url: environment(urlName), clientId: channel, qos, consumer: { sharing, receiveMaximum } })
    )
  )
  return Effect.runPromise(
    Effect.provide(Effect.promise(() => ask(channel, qos).then(() => progress.finished)), layer)
  )
}

const raw = (qos: 0 | 1) => async (): Promise<Measured> => {
  const progress = new Progress()
  const channel = fresh()
  const client = await open(environment(urlName), {
    clientId: channel,
    clean: qos === 0,
    properties: { receiveMaximum, ...qos === 0 ? {} : { sessionExpiryInterval: 3600 } }
  })
  client.on("message", (_topic, body) => progress.add(body.length))
  await client.subscribeAsync(`$share/${channel}/${channel}`, { qos })
  await ask(channel, qos)
  const measured = await progress.finished
  await client.endAsync()
  return measured
}

/** What the engine, acknowledgements that wait for it, and eight middlewares add to mqtt.js. */
export const mqtt: Bench = {
  name: "mqtt",
  about: "messages of a real Mosquitto, 8 trivial middlewares, beside mqtt.js without any that acknowledges on arrival",
  rounds: 5,
  share,
  variants: [
    { name: "millrace, QoS 1", whose: "millrace", run: ours(1, "group", Lanes.unordered(256)) },
    { name: "mqtt.js, QoS 1", whose: "peer", run: raw(1) },
    { name: "millrace, QoS 1 in order", whose: "millrace", run: ours(1, "exclusive", Lanes.partition) },
    { name: "millrace, QoS 0", whose: "millrace", run: ours(0, "group", Lanes.unordered(256)) },
    { name: "mqtt.js, QoS 0", whose: "peer", run: raw(0) }
  ],
  goals: [
    {
      id: "P6",
      text: "QoS 1: messages for each second of CPU, as a share of raw mqtt.js",
      target: 0.9,
      better: "higher",
      measured: (of) => of("mqtt.js, QoS 1").cpu / of("millrace, QoS 1").cpu
    },
    {
      id: "P6",
      text: "QoS 0: messages for each second of CPU, as a share of raw mqtt.js",
      target: 0.9,
      better: "higher",
      measured: (of) => of("mqtt.js, QoS 0").cpu / of("millrace, QoS 0").cpu
    }
  ]
}
