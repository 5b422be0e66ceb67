import { Lanes } from "@millrace/core"
import { RedisStreams } from "@millrace/redis"
import { Redis as Server } from "@millrace/testing/servers"
import { Effect, Redacted } from "effect"
import { Redis } from "ioredis"
import { type Bench, type Measured, scaled } from "./Bench.ts"
import * as Moleculer from "./brokerPeers/moleculer.ts"
import { body, environment, fresh, Progress, read, serve } from "./reading.ts"

const urlName = "MILLRACE_BENCH_REDIS"
const streamName = "MILLRACE_BENCH_STREAM"
const count = scaled(200_000)
/** What acknowledges each message by itself takes its time: it reads so many. */
const few = scaled(40_000)
/** Messages in one answer of the raw client. */
const page = 500

const client = (url: string) => new Redis(url, { protocol: 2 })

/** A body, a key and a header each, as the driver writes them. */
const fill = async (url: string, stream: string): Promise<void> => {
  const redis = client(url)
  for (let i = 0; i < count; i += 1000) {
    const pipeline = redis.pipeline()
    for (let k = 0; k < Math.min(1000, count - i); k++) {
      pipeline.xadd(stream, "*", "body", body, "key", `key-${(i + k) % 1000}`, "content-type", "text/plain")
    }
    await pipeline.exec()
  }
  const written = await redis.xlen(stream)
  redis.disconnect()
  if (written !== count) throw new Error(`${written} of ${count} messages are in the stream`)
}

/** One Redis with one full stream for all variants: each reads it as a group of its own, from the beginning. */
const share = () =>
  serve(Effect.gen(function*() {
    const stream = `bench-${process.pid}`
    const server = yield* Server.own({ settings: { appendfsync: "everysec" } })
    const url = Redacted.value(server.url)
    yield* Effect.promise(() => fill(url, stream))
    return { [urlName]: url, [streamName]: stream }
  }))

const ours = (lanes: Lanes.Lanes) => (): Promise<Measured> =>
  read(new Progress(count), RedisStreams.layer({ url: environment(urlName) }), environment(streamName), {
    group: fresh(),
    lanes
  })

type Entries = ReadonlyArray<readonly [id: Buffer, fields: ReadonlyArray<Buffer>]>

/** What the raw client does with what it read. */
type Acknowledge = (redis: Redis, stream: string, group: string, entries: Entries) => Promise<void>

const raw = (all: number, acknowledge: Acknowledge) => async (): Promise<Measured> => {
  const progress = new Progress(all, { page })
  const [stream, group] = [environment(streamName), fresh()]
  const redis = client(environment(urlName))
  await redis.xgroup("CREATE", stream, group, "0")
  while (!progress.complete) {
    const reply = await redis.callBuffer("XREADGROUP", [
      "GROUP",
      group,
      "raw",
      "COUNT",
      page,
      "BLOCK",
      1000,
      "STREAMS",
      stream,
      ">"
    ])
    // one stream was asked for
    const [[, entries]] = reply as [[Buffer, Entries]] | null ?? [[undefined, []]]
    if (entries.length === 0) break
    await acknowledge(redis, stream, group, entries)
    let bytes = 0
    for (const [, fields] of entries) bytes += fields[1]!.length
    progress.add(bytes, entries.length)
  }
  redis.disconnect()
  return progress.finished
}

const together: Acknowledge = async (redis, stream, group, entries) => {
  await redis.callBuffer("XACK", [stream, group, ...entries.map(([id]) => id)])
}

const each: Acknowledge = async (redis, stream, group, entries) => {
  for (const [id] of entries) await redis.xack(stream, group, id)
}

/** As it is often written: texts instead of bytes, one message read, one acknowledged. */
const naive = async (): Promise<Measured> => {
  const progress = new Progress(few)
  const [stream, group] = [environment(streamName), fresh()]
  const redis = client(environment(urlName))
  await redis.xgroup("CREATE", stream, group, "0")
  while (!progress.complete) {
    const reply = await redis.xreadgroup("GROUP", group, "naive", "COUNT", 1, "BLOCK", 1000, "STREAMS", stream, ">")
    // one stream was asked for
    const [[, entries]] = reply as [[string, Array<[string, Array<string>]>]]
    const [[id, fields]] = entries as [[string, Array<string>]]
    await redis.xack(stream, group, id)
    progress.add(fields[1]!.length)
  }
  redis.disconnect()
  return progress.finished
}

/** Its answers must be those of RESP2; it gives the client either a URL or options. */
const moleculer = async (): Promise<Measured> => {
  const progress = new Progress(few)
  const { hostname: host, password, port, username } = new URL(environment(urlName))
  const broker = await Moleculer.listen(
    "Redis",
    { redis: { host, port: Number(port), username, password, protocol: 2, consumerOptions: { startID: "0" } } },
    { name: environment(streamName), group: fresh(), maxInFlight: 256 },
    (data) => {
      if (!progress.complete) progress.add(data.length)
    }
  )
  const measured = await progress.finished
  await broker.stop()
  return measured
}

/** P16, on Redis Streams: what the engine and eight middlewares add to ioredis. */
export const redis: Bench = {
  name: "redis",
  about: "a full stream of a real Redis read to its end, 8 trivial middlewares, beside ioredis without any",
  rounds: 5,
  share,
  variants: [
    { name: "millrace, unordered", whose: "millrace", run: ours(Lanes.unordered(256)) },
    { name: "ioredis, 500 and one XACK", whose: "limit", run: raw(count, together) },
    { name: "ioredis, 500 and an XACK each", whose: "peer", run: raw(few, each) },
    { name: "ioredis, one read and acknowledged at a time", whose: "peer", run: naive },
    { name: "Moleculer channels", whose: "peer", run: moleculer },
    { name: "millrace, in order", whose: "millrace", run: ours(Lanes.partition) }
  ],
  goals: [
    {
      id: "P16",
      text: "messages for each second of CPU, as a share of raw ioredis reading 500 with one XACK",
      target: 0.95,
      better: "higher",
      measured: (of) => of("ioredis, 500 and one XACK").cpu / of("millrace, unordered").cpu
    },
    {
      id: "P16",
      text: "messages for each second, times ioredis reading one and acknowledging one",
      target: 25,
      better: "higher",
      measured: (of) =>
        of("millrace, unordered")["perSecond"]! / of("ioredis, one read and acknowledged at a time")["perSecond"]!
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
