// A consumer in a process of its own: KIND URL CHANNEL LANES MILLISECONDS. Prints what it begins and what it has done.
import { Channel, Lanes, type Message, Subscription } from "@millrace/core"
import { RedisLists, RedisStreams } from "@millrace/redis"
import { Effect, Layer } from "effect"

const [kind, url = "", channel = "", lanes, wait = "0"] = process.argv.slice(2)
const decoder = new TextDecoder()

const handle = ({ attempt, payload }: Message<Uint8Array>) =>
  Effect.gen(function*() {
    const text = decoder.decode(payload)
    console.log(`begun ${text} ${attempt}`)
    yield* Effect.sleep(Number(wait))
    console.log(`done ${text}`)
  })

const subscription = Subscription.make(Channel.bytes(channel), {
  group: "workers",
  name: "worker",
  lanes: lanes === "unordered" ? Lanes.unordered(16) : Lanes.key(16),
  restart: { base: "50 millis" }
}, handle)

const consumer = { claim: "500 millis", lock: "500 millis", maximumWait: "100 millis" } as const
const broker = kind === "lists"
  ? RedisLists.layer({ url, consumer })
  : RedisStreams.layer({ url, consumer })

Effect.runFork(Effect.scoped(Effect.gen(function*() {
  yield* Layer.build(Layer.provide(Subscription.layer(subscription), broker))
  console.log("ready")
  return yield* Effect.never
})))
