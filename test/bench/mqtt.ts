import { Lanes } from "@millrace/core"
import { Mqtt } from "@millrace/mqtt"
import { Mosquitto } from "@millrace/testing/servers"
import { Transport } from "@nestjs/microservices"
import { Effect, Redacted } from "effect"
import { connect, type IClientOptions, type MqttClient } from "mqtt"
import { type Bench, type Measured, scaled } from "./Bench.ts"
import * as Nest from "./brokerPeers/nest.ts"
import { body, environment, fresh, Progress, read, serve } from "./reading.ts"

const urlName = "MILLRACE_BENCH_MQTT"
const count = scaled(90_000)
const receiveMaximum = 1024

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
  for (let i = 0; i < count; i += 500) {
    await Promise.all(Array.from({ length: Math.min(500, count - i) }, (_, k) =>
      client.publishAsync(topic, body, {
        qos,
        properties: { contentType: "text/plain", userProperties: { "millrace-key": `key-${(i + k) % 1_000}` } }
      })))
  }
}

/** One Mosquitto for all variants, and a client here that publishes what they ask for: its work is not theirs. */
const share = () =>
  serve(Effect.gen(function*() {
    const settings = ["max_inflight_messages 0", "autosave_interval 3600"]
    const server = yield* Mosquitto.make({ settings })
    const url = Redacted.value(server.url)
    const client = yield* Effect.acquireRelease(
      Effect.promise(() => open(url, { clean: true })),
      (client) => Effect.promise(() => client.endAsync(true))
    )
    client.on("message", (topic, body) => {
      const [channel = "", qos] = body.toString().split(" ")
      if (topic === request) void fill(client, channel, qos === "1" ? 1 : 0)
    })
    yield* Effect.promise(() => client.subscribeAsync(request, { qos: 1 }))
    return { [urlName]: url }
  }))

const ask = async (channel: string, qos: 0 | 1): Promise<void> => {
  const client = await open(environment(urlName), { clean: true })
  await client.publishAsync(request, `${channel} ${qos}`, { qos: 1 })
  await client.endAsync()
}

const ours = (qos: 0 | 1, sharing: "group" | "exclusive", lanes: Lanes.Lanes) => (): Promise<Measured> => {
  const channel = fresh()
  return read(
    new Progress(count),
    Mqtt.layer({ url: environment(urlName), clientId: channel, qos, consumer: { sharing, receiveMaximum } }),
    channel,
    { group: channel, lanes },
    () => ask(channel, qos)
  )
}

const raw = (qos: 0 | 1) => async (): Promise<Measured> => {
  const progress = new Progress(count)
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

/** Like mqtt.js, it acknowledges on arrival. */
const nest = async (): Promise<Measured> => {
  const progress = new Progress(count)
  const channel = fresh()
  const pattern = `$share/${channel}/${channel}`
  const options = {
    url: environment(urlName),
    clientId: channel,
    protocolVersion: 5,
    clean: false,
    properties: { receiveMaximum, sessionExpiryInterval: 3600 },
    subscribeOptions: { qos: 1 }
  } as const
  // it has parsed the body, a text with two quotes
  const app = await Nest.listen(
    { transport: Transport.MQTT, options },
    pattern,
    (text: string) => progress.add(text.length + 2)
  )
  // it does not tell when it has subscribed; who does so again is told
  await app.unwrap<MqttClient>().subscribeAsync(pattern, { qos: 1 })
  await ask(channel, 1)
  const measured = await progress.finished
  await app.close()
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
    { name: "mqtt.js, QoS 0", whose: "peer", run: raw(0) },
    { name: "NestJS, QoS 1", whose: "peer", run: nest }
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
    },
    {
      id: "P16",
      text: "QoS 1: messages for each second of CPU, times NestJS",
      target: 1,
      better: "higher",
      measured: (of) => of("NestJS, QoS 1").cpu / of("millrace, QoS 1").cpu
    }
  ]
}
