/** Three servers with three replicas of each stream, one of which dies: the one that leads the stream. */
import { expect, it } from "@effect/vitest"
import { Broker, type BrokerError, Channel, type Delivery, Engine, Lanes, Subscription } from "@millrace/core"
import { JetStream, Nats } from "@millrace/nats"
import { Nats as Servers } from "@millrace/testing/servers"
import { jetstreamManager } from "@nats-io/jetstream"
import type { NatsConnection } from "@nats-io/transport-node"
import { Effect, Fiber, Schedule } from "effect"
import { type AddressInfo, createServer } from "node:net"
import { describeServer } from "../services/describe.ts"
import { client, eventually, fresh, outgoing, textOf } from "./support.ts"

const names = ["n1", "n2", "n3"]

const freePort = Effect.promise(() =>
  new Promise<number>((resolve, reject) => {
    const server = createServer()
    server.on("error", reject)
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })
)

/** Where each server tells of its connections. */
const monitors = new Map<string, number>()

/** The server that a client is connected to; undefined where it is on none. */
const serverOf = async (name: string): Promise<string | undefined> => {
  for (const [server, port] of monitors) {
    const answer = await fetch(`http://127.0.0.1:${port}/connz`).catch(() => undefined)
    if (answer !== undefined && (await answer.text()).includes(`"name": "${name}"`)) return server
  }
  return undefined
}

/** Servers by their names in the cluster. */
const cluster = Effect.gen(function*() {
  const ports = yield* Effect.forEach(names, () => freePort)
  for (const name of names) monitors.set(name, yield* freePort)
  const routes = ports.map((port) => `"nats://127.0.0.1:${port}"`).join(", ")
  const servers = yield* Effect.forEach(names, (name, i) =>
    Servers.own({
      settings: [
        `server_name: ${name}`,
        `http: "127.0.0.1:${monitors.get(name)}"`,
        "lame_duck_duration: 30s",
        "lame_duck_grace_period: 5s",
        `cluster { name: test, listen: "127.0.0.1:${ports[i]}", routes: [${routes}] }`
      ]
    }), { concurrency: "unbounded" })
  return new Map(names.map((name, i) => [name, servers[i]!]))
})

/** Has a stream and its consumers led by one server other than `n1`, and answers which. */
const leadByOne = async (nc: NatsConnection, stream: string, consumers: ReadonlyArray<string>): Promise<string> => {
  const manager = await jetstreamManager(nc)
  const leaderOf = async (consumer?: string) =>
    consumer === undefined
      ? (await manager.streams.info(stream)).cluster?.leader
      : (await manager.consumers.info(stream, consumer)).cluster?.leader
  const move = async (path: string, consumer: string | undefined, isGood: (leader: string) => boolean) => {
    for (;;) {
      const leader = await leaderOf(consumer)
      if (leader !== undefined && isGood(leader)) return leader
      await nc.request(`$JS.API.${path}`, "", { timeout: 2000 })
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
  }
  const leader = await move(`STREAM.LEADER.STEPDOWN.${stream}`, undefined, (each) => each !== "n1")
  for (const consumer of consumers) {
    await move(`CONSUMER.LEADER.STEPDOWN.${stream}.${consumer}`, consumer, (each) => each === leader)
  }
  return leader
}

describeServer("X5 JetStream in a cluster", cluster, (servers) => {
  const layer = () =>
    JetStream.layer({
      // this one stays: what is tried is the end of a leader, and not of the connection
      servers: servers().get("n1")!.address,
      requestTimeout: "2 seconds",
      consumer: { takeover: "3 seconds" }
    })

  it.live(
    "X4 X5 a server that is about to stop (lame duck mode) is left for another before it ends connections: nothing is lost",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const channel = fresh("lame")
        const clientId = fresh("client")
        const options = { servers: [servers().get("n2")!.address, servers().get("n3")!.address], clientId }
        const driver = yield* Nats.driver(options)
        const got: Array<string> = []
        const program = Effect.gen(function*() {
          yield* Subscription.run(Subscription.make(
            Channel.bytes(channel),
            { group: "group", lanes: Lanes.unordered(16) },
            (delivery: Delivery) => Effect.sync(() => void got.push(textOf(delivery.raw)))
          ))
          const first = yield* Effect.promise(() => serverOf(clientId))
          const sent: Array<string> = []
          const send = Effect.suspend(() => {
            sent.push(`m-${sent.length}`)
            // a publish that fails fails the test
            return Effect.andThen(driver.publish([outgoing(channel, sent.at(-1)!)]), Effect.sleep("2 millis"))
          })
          yield* Effect.repeat(send, { times: 50 })
          const pid = yield* servers().get(first!)!.pid
          process.kill(pid!, "SIGUSR2")
          let now: string | undefined
          const looking = yield* Effect.forkScoped(eventually(async () => {
            now = await serverOf(clientId)
            return now !== undefined && now !== first
          }))
          yield* Effect.repeat(send, { until: () => looking.pollUnsafe() !== undefined })
          yield* Effect.repeat(send, { times: 50 })
          yield* eventually(() => got.length >= sent.length)
          expect(got).toEqual(sent)
          yield* servers().get(first!)!.kill
          yield* servers().get(first!)!.start
        })
        yield* Effect.provide(program, Engine.layer(Effect.succeed(driver)))
      })),
    60_000
  )

  it.live(
    "X4 X5 F21 when the leader of a stream dies, publishes fail for a while and may be tried again, and consumers go on within seconds",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const channel = fresh("replicated")
        const broker = yield* Broker.Broker
        yield* Effect.retry(
          broker.declare({ channel, settings: { num_replicas: "3" } }),
          Schedule.spaced("200 millis").pipe(Schedule.upTo({ duration: "20 seconds" }))
        )
        yield* broker.declare({ channel: `${channel}.dead-letters`, settings: { num_replicas: "3" } })
        const got = new Map<string, Set<string>>()
        const consume = (group: string, lanes: Lanes.Lanes) => {
          const texts = new Set<string>()
          got.set(group, texts)
          return Subscription.run(Subscription.make(
            Channel.bytes(channel),
            { group, name: group, lanes, restart: { base: 50, cap: 500 } },
            (delivery: Delivery) => Effect.sync(() => void texts.add(textOf(delivery.raw)))
          ))
        }
        yield* consume("sharing", Lanes.unordered(16))
        yield* consume("in-order", Lanes.partition)
        const confirmed: Array<string> = []
        const errors: Array<BrokerError.BrokerError> = []
        let isOver = false
        let count = 0
        const publishing = yield* Effect.forkScoped(Effect.gen(function*() {
          while (!isOver) {
            const text = `m-${count++}`
            yield* Effect.matchEffect(broker.publish(outgoing(channel, text)), {
              onSuccess: () => Effect.sync(() => void confirmed.push(text)),
              onFailure: (error) => Effect.sync(() => void errors.push(error))
            })
            yield* Effect.sleep("20 millis")
          }
        }))
        const flows = () => Array.from(got.values()).every(({ size }) => size > 20)
        yield* eventually(flows)
        const nc = yield* client(servers().get("n1")!)
        const leader = yield* Effect.promise(() => leadByOne(nc, channel, Array.from(got.keys())))
        yield* servers().get(leader)!.kill
        const before = confirmed.length
        yield* eventually(() => confirmed.length > before + 20)
        const published = performance.now()
        isOver = true
        yield* Fiber.join(publishing)
        // nothing that was confirmed is lost, and no consumer stands still
        yield* eventually(() => Array.from(got.values()).every((texts) => confirmed.every((text) => texts.has(text))))
        const consumed = performance.now()
        // a leader is chosen within 10 seconds; the pulls of old would have waited 30
        expect(consumed - published).toBeLessThan(15_000)
        expect(errors.length).toBeGreaterThan(0)
        expect(errors.filter(({ retriable }) => !retriable)).toEqual([])
      })).pipe(Effect.provide(layer())),
    60_000
  )
})
