import { it } from "@effect/vitest"
import { Broker, Channel, Lanes, type Message, Subscription } from "@millrace/core"
import { RedisStreams } from "@millrace/redis"
import { RedisCluster } from "@millrace/testing/servers"
import * as Keys from "../../packages/redis/src/internal/client/Keys.ts"
import * as Slots from "../../packages/redis/src/internal/client/Slots.ts"
import { Context, Effect, Layer, References, Stream } from "effect"
import type { Redis } from "ioredis"
import { readFileSync } from "node:fs"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { clusterKilled, consumer, layers } from "./failover.ts"
import { flow } from "./flow.ts"
import { eventually, fresh, numbered, outgoing, plain, textOf } from "./support.ts"

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

/** Moves a slot with its keys to another primary, key by key. */
const move = async (slot: number, from: Redis, to: Redis, between: () => Promise<unknown>) => {
  const [source, target] = [await from.cluster("MYID"), await to.cluster("MYID")]
  await to.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source)
  await from.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
  await between()
  while (true) {
    const keys = await from.call("CLUSTER", "GETKEYSINSLOT", slot, 100)
    if (!Array.isArray(keys) || keys.length === 0) break
    await from.call("MIGRATE", to.options.host!, to.options.port!, "", 0, 5000, "KEYS", ...keys.map(String))
    await between()
  }
  for (const node of [to, from]) await node.call("CLUSTER", "SETSLOT", slot, "NODE", target)
}

describeServer("Redis Cluster in use", RedisCluster.own(), (server) => {
  it.live("X5 all keys beside a channel share its slot, as the server counts", () =>
    Effect.gen(function*() {
      const client = yield* plain(server().nodes[0]!)
      for (const channel of ["orders", "{orders}.eu", "a}b", "a{b", "{}x", "{a}{b}", "{{a}}", "ü{ö}ä", "}", "{"]) {
        const slots = yield* Effect.promise(() =>
          Promise.all(
            [channel, Keys.beside(channel, "group", "lock")].map((key) => client.call("CLUSTER", "KEYSLOT", key))
          )
        )
        expect(slots, channel).toEqual([Slots.slotOf(channel), Slots.slotOf(channel)])
      }
    }).pipe(Effect.scoped))

  it.live("F3 the rights that docs/redis.md names are enough on a cluster, with WAIT too", () =>
    Effect.gen(function*() {
      const page = readFileSync(new URL("../../docs/redis.md", import.meta.url), "utf8")
      const rights = (begin: RegExp) => new RegExp(`${begin.source}[^\\n]*?\`(\\+[^\`]+)\``).exec(page)![1]!.split(" ")
      const channel = fresh("rights")
      const nodes = yield* Effect.forEach(server().nodes, plain)
      yield* Effect.promise(() =>
        Promise.all(nodes.map((node) =>
          node.acl(
            "SETUSER",
            "limited",
            "on",
            ">limited",
            `~${channel}`,
            `~{${channel}}:millrace:*`,
            `~${channel}.dead-letters`,
            `~{${channel}.dead-letters}:millrace:*`,
            "+wait",
            ...rights(/A user needs these rights/),
            ...rights(/with `wait`/),
            ...rights(/- Streams:/)
          )
        ))
      )
      const options = { cluster: server().addresses, username: "limited", password: "limited", consumer }
      const running = yield* flow(
        yield* Layer.build(RedisStreams.layer({ ...options, wait: { replicas: 1, timeout: "5 seconds" } })),
        channel
      )
      yield* eventually(() => running.done.length > 10)
      const { failed } = yield* running.end
      expect(failed).toEqual([])
      for (const node of nodes) expect(yield* Effect.promise(() => node.acl("LOG"))).toEqual([])
    }).pipe(Effect.scoped, quiet))

  for (const each of layers) {
    const [name, layer] = each
    it.live(`X5 ${name}: channels of every slot and with braces in their names are published together and worked off`, () =>
      Effect.gen(function*() {
        const broker = Context.get(
          yield* Layer.build(layer({ cluster: server().addresses.slice(2, 3) })),
          Broker.Broker
        )
        const channels = [...numbered(9, "many"), "a}b", "{}x", "a{b", "{a}b"].map((each) => `${each}${fresh("")}`)
        yield* broker.publishAll([1, 2, 3].flatMap((n) => channels.map((channel) => outgoing(channel, `${n}`))))
        for (const channel of channels) {
          const found = yield* Stream.runCollect(broker.browse(channel))
          expect(found.map(({ raw }) => textOf(raw)), channel).toEqual(["1", "2", "3"])
        }
        const got: Array<string> = []
        // braces are parameters to a subscription, so no name has them
        for (const channel of channels.slice(0, 4)) {
          yield* Subscription.run(Subscription.make(
            Channel.bytes(channel),
            { group: "g", name: "n", lanes: Lanes.unordered(2) },
            (message: Message<Uint8Array>) => Effect.sync(() => void got.push(`${channel} ${textOf(message.payload)}`))
          )).pipe(Effect.provideService(Broker.Broker, broker))
        }
        yield* eventually(() => got.length === 12)
        for (const channel of channels) {
          yield* eventually(async () => ((await Effect.runPromise(broker.lag(channel, "g")))[0]?.messages ?? 0) === 0)
        }
      }).pipe(Effect.scoped, quiet))

    it.live(
      `X4, X5 ${name}: a slot moves to another node under load: no publish fails, and nothing is lost or written twice`,
      () =>
        Effect.gen(function*() {
          const channel = fresh(`moving.${name}`)
          const running = yield* flow(yield* Layer.build(layer({ cluster: server().addresses })), channel)
          yield* eventually(() => running.done.length > 20)
          const owner = yield* server().primaryOf(channel)
          const others = yield* Effect.forEach(["a", "b", "c", "d", "e", "f"], (key) => server().primaryOf(key))
          const next = others.find(({ port }) => port !== owner.port)!
          const [from, to] = [yield* plain(owner), yield* plain(next)]
          const pass = async () => {
            const seen = running.confirmed.length
            await Effect.runPromise(eventually(() => running.confirmed.length > seen + 5))
          }
          yield* Effect.promise(() => move(Slots.slotOf(channel), from, to, pass))
          const seen = running.done.length
          yield* eventually(() => running.done.length > seen + 30)
          const { confirmed, done, failed } = yield* running.end
          expect(failed).toEqual([])
          yield* eventually(() => confirmed.every((text) => done.includes(text)))
          const written = yield* plain(next)
          if (name === "streams") {
            expect(yield* Effect.promise(() => written.xlen(channel))).toBe(confirmed.length)
          }
        }).pipe(Effect.scoped, quiet),
      60_000
    )

    it.live(
      `X4, X5 ${name}: a primary that hangs is replaced within seconds, though its connections stay open`,
      () =>
        Effect.gen(function*() {
          const channel = fresh(`hung.${name}`)
          const running = yield* flow(yield* Layer.build(layer({ cluster: server().addresses })), channel)
          yield* eventually(() => running.done.length > 20)
          const pid = (yield* (yield* server().primaryOf(channel)).pid)!
          yield* Effect.acquireRelease(
            Effect.sync(() => process.kill(pid, "SIGSTOP")),
            () => Effect.sync(() => process.kill(pid, "SIGCONT"))
          )
          const began = performance.now()
          const seen = running.confirmed.length + 1
          yield* eventually(() => running.confirmed.length > seen + 20)
          const next = running.done.length
          yield* eventually(() => running.done.length > next + 20)
          // half of the time limit of a command
          expect(performance.now() - began).toBeLessThan(15_000)
          const { failed } = yield* running.end
          for (const { reason } of failed) expect(["Lost", "Unreachable"]).toContain(reason)
        }).pipe(Effect.scoped, quiet),
      60_000
    )

    clusterKilled(each, server)
  }
})
