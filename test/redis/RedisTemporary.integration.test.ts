import { it } from "@effect/vitest"
import { Broker, Channel, Request } from "@millrace/core"
import { RedisLists, RedisStreams } from "@millrace/redis"
import { Redis as Servers } from "@millrace/testing/servers"
import { Effect, Redacted, References, Schema } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { eventually, fresh, outgoing, plain } from "./support.ts"

const quiet = Effect.provideService(References.MinimumLogLevel, "None")
const layers = [["streams", RedisStreams.layer], ["lists", RedisLists.layer]] as const

describeServer("Temporary channels of Redis", Servers.own(), (server) => {
  for (const [name, layer] of layers) {
    it.live(`X5 ${name}: the channel of a client's replies expires when its process dies, and is gone when it ends`, () =>
      Effect.gen(function*() {
        const raw = yield* plain(server())
        const channel = fresh(`ask.${name}`)
        const price = Request.make(Channel.make(channel, { payload: Schema.String }), { reply: Schema.Number })
        const broker = yield* Broker.Broker
        const keys = async () => (await raw.keys(`*${channel}*replies*`)).toSorted()
        yield* Effect.scoped(Effect.gen(function*() {
          yield* Request.client(price)
          // as much as stays behind when this process is killed now: all of it expires by itself
          yield* eventually(async () => {
            const left = await Promise.all((await keys()).map((key) => raw.pttl(key)))
            return left.length > 0 && left.every((millis) => millis > 0 && millis <= 300_000)
          })
        }))
        const left = yield* Effect.promise(keys)
        if (name === "lists") expect(left).toEqual([])
        else {
          // a reply that comes too late is gone with it
          const [replies = ""] = left
          yield* broker.publish(outgoing(replies, "late"))
          expect(yield* Effect.promise(() => raw.pttl(replies))).toBeGreaterThan(0)
          expect(yield* Effect.promise(() => raw.call("XINFO", "GROUPS", replies))).toEqual([])
          expect(left).toEqual([replies])
        }
      }).pipe(Effect.provide(layer({ url: Redacted.value(server().url) })), Effect.scoped, quiet))
  }
})
