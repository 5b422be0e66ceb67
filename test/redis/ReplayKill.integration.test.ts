import { it } from "@effect/vitest"
import { Broker, Channel, DeadLetters, type Delivery, Lanes, Outgoing, Replays, Subscription } from "@millrace/core"
import { RedisStreams } from "@millrace/redis"
import { Redis as Servers } from "@millrace/testing/servers"
import { Data, Effect, Random, Redacted, References, Stream } from "effect"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"

class Refused extends Data.TaggedError("Refused")<{}> {
  readonly failure = "permanent" as const
}

const replayer = fileURLToPath(new URL("./replayer.ts", import.meta.url))

/** One life of the replaying process, killed so many milliseconds after it began; whether it came to its end before. */
const life = (url: string, channel: string, after: number | undefined) =>
  Effect.callback<boolean>((resume) => {
    const child = spawn(process.execPath, [replayer, url, channel], { stdio: ["ignore", "pipe", "inherit"] })
    let output = ""
    child.stdout.on("data", (chunk) => {
      // the moment counts from the first letter: the start of a process takes longer than a replay
      if (output === "" && after !== undefined) setTimeout(() => child.kill("SIGKILL"), after)
      output += chunk
    })
    child.on("close", () => resume(Effect.succeed(output.includes("end"))))
  })

const count = 3000
const seed = process.env["MILLRACE_SEED"] ?? `${Date.now() % 1_000_000}`

describeServer("A replay that is killed", Servers.own(), (server) => {
  it.live(
    "F22 kill -9 of the replaying process at any moment: the group that failed gets each letter exactly once, no other any",
    () =>
      Effect.gen(function*() {
        const url = Redacted.value(server().url)
        const channel = "replayed.orders"
        const broker = yield* Broker.Broker
        const seen: Array<number> = []
        const others: Array<number> = []
        let isBroken = true
        const make = (group: string, list: Array<number>, broken: () => boolean) =>
          Subscription.make(
            Channel.bytes(channel),
            { group, name: group, lanes: Lanes.unordered(64) },
            ({ raw }: Delivery) => {
              list.push(Number(new TextDecoder().decode(raw)))
              return broken() ? Effect.fail(new Refused()) : Effect.void
            }
          )
        const billing = make("billing", seen, () => isBroken)
        yield* Subscription.run(billing)
        yield* Replays.run(billing)
        yield* Subscription.run(make("mail", others, () => false))
        const all = Array.from({ length: count }, (_, i) => i)
        yield* broker.publishAll(
          all.map((i) => new Outgoing(channel, new TextEncoder().encode(String(i)), undefined, {}))
        )
        const letters = Stream.runCount(DeadLetters.list(DeadLetters.channelOf(channel)))
        while ((yield* letters) < count) yield* Effect.sleep("20 millis")
        isBroken = false
        seen.length = 0
        let kills = 0
        let ended = false
        while (!ended && kills < 8) {
          ended = yield* life(url, channel, yield* Random.nextIntBetween(0, 150))
          if (!ended) kills++
        }
        console.log(`MILLRACE_SEED=${seed}: ${kills} kills`)
        if (!ended) expect(yield* life(url, channel, undefined)).toBe(true)
        while (new Set(seen).size < count) yield* Effect.sleep("20 millis")
        yield* Effect.sleep("200 millis")
        expect(kills).toBeGreaterThan(0)
        expect(seen.toSorted((a, b) => a - b)).toEqual(all)
        expect(others.toSorted((a, b) => a - b)).toEqual(all)
      }).pipe(
        Effect.scoped,
        Effect.provide(RedisStreams.layer({ url: Redacted.value(server().url) })),
        Random.withSeed(seed),
        // a line for each of the dead letters
        Effect.provideService(References.MinimumLogLevel, "Error")
      ),
    120_000
  )
})
