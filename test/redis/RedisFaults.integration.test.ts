import { Broker, type Delivery, type Driver, Lanes, Outcome } from "@millrace/core"
import { RedisLists, RedisPubSub, RedisStreams } from "@millrace/redis"
import { Redis as Servers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { Effect, Fiber, Latch, Layer, Logger, Redacted, References, Stream } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { consume, consumer, lagOf, publish } from "./consuming.ts"
import { eventually, fresh, numbered, outgoing, plain, textOf, worker } from "./support.ts"

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

const streams = (server: Servers.RedisServer) => RedisStreams.layer({ url: Redacted.value(server.url), consumer })

/** A driver without an engine: what it offers is taken, and settled when the test says so. */
const watch = (driver: Driver.Driver, channel: string) =>
  Effect.gen(function*() {
    const taken: Array<Delivery> = []
    const leases: Array<Driver.Lease> = []
    const sink: Driver.Sink = {
      ready: () => {},
      polled: () => {},
      open: (lease) => void leases.push(lease),
      offer: (_lease, batch) => Effect.sync(() => void taken.push(...batch)),
      settled: () => Effect.void,
      close: () => Effect.void
    }
    const options = {
      channel,
      pattern: undefined,
      group: "workers",
      handler: "test",
      from: "earliest",
      ordered: true,
      messages: 1000,
      batch: 100,
      bytes: 1_000_000
    } as const
    const running = yield* Effect.forkChild(Effect.exit(Effect.scoped(driver.consume(options, sink))))
    return { taken, leases, running }
  })

describeServer("Redis in trouble", Servers.own(), (server) => {
  for (
    const [kind, layer] of [
      ["streams", () => streams(server())],
      ["lists", () => RedisLists.layer({ url: Redacted.value(server().url), consumer })],
      ["Pub/Sub", () => RedisPubSub.layer({ url: Redacted.value(server().url) })]
    ] as const
  ) {
    it.live(`F22 ${kind}: a value over proto-max-bulk-len is refused for good, and the next is taken`, () =>
      Effect.gen(function*() {
        const channel = fresh("bulk")
        const client = yield* plain(server())
        yield* Effect.promise(() => client.config("SET", "proto-max-bulk-len", "1mb"))
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          for (const length of [1024 * 1024 + 1, 3 * 1024 * 1024]) {
            const error = yield* Effect.flip(broker.publish(outgoing(channel, "x".repeat(length))))
            expect([error.reason, error.retriable]).toEqual(["TooLarge", false])
            yield* broker.publish(outgoing(channel, "next"))
          }
        }).pipe(
          Effect.provide(layer()),
          Effect.ensuring(Effect.promise(() => client.config("SET", "proto-max-bulk-len", "512mb")))
        )
      }).pipe(Effect.scoped, quiet))
  }

  for (const kind of ["streams", "lists"] as const) {
    const layer = () =>
      kind === "streams"
        ? streams(server())
        : RedisLists.layer({ url: Redacted.value(server().url), consumer })

    it.live(`X4, X5 ${kind}: a consumer that is killed in the middle loses nothing, and what it had comes again, once`, () =>
      Effect.gen(function*() {
        const channel = fresh(`killed.${kind}`)
        const wanted = numbered(60)
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const { child, lines } = yield* worker(kind, Redacted.value(server().url), channel, "unordered", "20")
          yield* eventually(() => lines.includes("ready"))
          yield* publish(channel, wanted)
          yield* eventually(() => lines.filter((line) => line.startsWith("done")).length > 16)
          child.kill("SIGKILL")
          yield* eventually(() => child.signalCode !== null)
          const done = lines.filter((line) => line.startsWith("done")).map((line) => line.slice(5))
          const here = yield* consume(channel, () => Effect.void, Lanes.unordered(4))
          yield* eventually(() => new Set([...done, ...here.got]).size === wanted.length)
          yield* eventually(() =>
            Effect.runPromise(
              Effect.map(lagOf(channel).pipe(Effect.provideService(Broker.Broker, broker)), (lag) => lag === 0)
            )
          )
          expect([...new Set([...done, ...here.got])].toSorted()).toEqual(wanted.toSorted())
          // each once here; twice altogether only what was done there and could not be said any more
          expect(here.got.length).toBe(new Set(here.got).size)
          expect(done.length + here.got.length - wanted.length).toBeLessThanOrEqual(2 * 16)
          if (kind === "streams") {
            expect(new Set(here.attempts)).toEqual(new Set([2]))
          }
        }).pipe(Effect.provide(layer()))
      }).pipe(Effect.scoped, quiet))

    it.live(`X4, X5 ${kind}: the server restarts under load, and nothing confirmed is lost`, () =>
      Effect.gen(function*() {
        const channel = fresh(`restart.${kind}`)
        const confirmed: Array<string> = []
        const here = yield* consume(channel, () => Effect.sleep(1), Lanes.unordered(8))
        const broker = yield* Broker.Broker
        let ended = false
        const flow = yield* Effect.forkChild(Effect.gen(function*() {
          for (let i = 0; !ended; i++) {
            yield* broker.publish(outgoing(channel, `m-${i}`)).pipe(
              Effect.map(() => void confirmed.push(`m-${i}`)),
              Effect.catch((error) => {
                expect(["Unreachable", "Lost"]).toContain(error.reason)
                return Effect.sleep(5)
              })
            )
            yield* Effect.sleep(1)
          }
        }))
        for (const how of [server().restart, Effect.andThen(server().kill, server().start)]) {
          const seen = here.got.length
          yield* eventually(() => here.got.length > seen + 30)
          yield* how
        }
        const seen = here.got.length
        yield* eventually(() => here.got.length > seen + 30)
        ended = true
        yield* Fiber.join(flow)
        yield* eventually(() => confirmed.every((text) => here.got.includes(text)))
        if (kind === "streams") {
          // what was on its way when the connection ended was not sent a second time
          const texts = (yield* Stream.runCollect(broker.browse(channel))).map(({ raw }) => textOf(raw))
          expect(texts.length).toBe(new Set(texts).size)
        }
        yield* eventually(() =>
          Effect.runPromise(
            Effect.map(lagOf(channel).pipe(Effect.provideService(Broker.Broker, broker)), (lag) => lag === 0)
          )
        )
        expect(here.got.length - new Set(here.got).size).toBeLessThanOrEqual(confirmed.length / 2)
      }).pipe(Effect.provide(layer()), Effect.scoped, quiet))
  }

  it.live("X4, X5 a server that answers nothing any more is noticed, and when it does all goes on", () =>
    Effect.gen(function*() {
      const url = Redacted.value(server().url)
      const options = { url, requestTimeout: "600 millis", connectTimeout: "500 millis" } as const
      const ways = [
        [RedisStreams.layer({ ...options, consumer }), Lanes.partition],
        [RedisStreams.layer({ ...options, consumer }), Lanes.unordered(4)],
        [
          RedisLists.layer({ ...options, consumer: { claim: "500 millis", maximumWait: "100 millis" } }),
          Lanes.unordered(4)
        ],
        [RedisPubSub.layer(options), Lanes.partition]
      ] as const
      const all = yield* Effect.forEach(ways, ([layer, lanes]) =>
        Effect.gen(function*() {
          const channel = fresh("frozen")
          const context = yield* Layer.build(layer)
          const here = yield* Effect.provide(consume(channel, () => Effect.void, lanes), context)
          return { channel, context, here }
        }))
      const pid = (yield* server().pid)!
      yield* Effect.acquireRelease(
        Effect.sync(() => process.kill(pid, "SIGSTOP")),
        () => Effect.sync(() => process.kill(pid, "SIGCONT"))
      )
      for (const { channel, context, here } of all) {
        const error = yield* Effect.flip(Effect.provide(publish(channel, ["m"]), context))
        expect(["Lost", "Unreachable"]).toContain(error.reason)
        yield* eventually(async () => (await Effect.runPromise(here.running.health)).restarts > 0)
      }
      process.kill(pid, "SIGCONT")
      for (const { channel, context, here } of all) {
        yield* eventually(async () => {
          await Effect.runPromiseExit(Effect.provide(publish(channel, ["after"]), context))
          return here.got.includes("after")
        })
      }
    }).pipe(Effect.scoped, quiet))

  it.live("X3, X4 a reader that is stopped loses its place, and what it then says of its messages is not heard", () =>
    Effect.gen(function*() {
      const channel = fresh("stopped")
      const raw = yield* plain(server())
      const wanted = numbered(5)
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      const { child, lines } = yield* worker("streams", Redacted.value(server().url), channel, "key", "700")
      yield* eventually(() => lines.includes("ready"))
      yield* publish(channel, wanted)
      yield* eventually(() => lines.filter((line) => line.startsWith("begun")).length === 5)
      child.kill("SIGSTOP")
      let open = false
      const here = yield* consume(channel, () =>
        Effect.promise(async () => {
          while (!open) await new Promise((resolve) => setTimeout(resolve, 10))
        }), Lanes.key(16))
      yield* eventually(() => here.got.length === 5)
      // all of it, in order, and counted
      expect(here.got).toEqual(wanted)
      expect(here.attempts).toEqual([2, 2, 2, 2, 2])
      child.kill("SIGCONT")
      yield* publish(channel, ["next"])
      yield* Effect.sleep("1500 millis")
      // its handlers went on or were interrupted; whatever it said, all five are still pending here, and the next is ours too
      const [pending] = yield* Effect.promise(() => raw.xpending(channel, "workers"))
      expect(pending).toBe(6)
      yield* eventually(() => here.got.length === 6)
      expect(lines.some((line) => line.startsWith("begun next"))).toBe(false)
      open = true
      yield* eventually(async () => (await raw.xpending(channel, "workers"))[0] === 0)
      expect(here.got).toEqual([...wanted, "next"])
    }).pipe(Effect.provide(streams(server())), Effect.scoped, quiet))

  it.live("X3, X4 once another holds the lock, nothing is read, and nothing that is said is heard", () =>
    Effect.gen(function*() {
      const channel = fresh("fenced")
      const raw = yield* plain(server())
      // the default: no sign of life is due while this runs
      const driver = yield* RedisStreams.driver({ url: Redacted.value(server().url) })
      const { leases, running, taken } = yield* watch(driver, channel)
      yield* driver.publish(numbered(3).map((text) => outgoing(channel, text)))
      yield* eventually(() => taken.length === 3)
      const [lease] = leases
      yield* lease!.settle!([{ delivery: taken[0]!, outcome: Outcome.Ack }])
      const [lock] = yield* Effect.promise(() => raw.keys(`*${channel}:workers:lock`))
      yield* Effect.promise(() => raw.set(lock!, "another"))
      const error = yield* Effect.flip(lease!.settle!([{ delivery: taken[1]!, outcome: Outcome.Ack }]))
      expect([error.reason, error.operation, error.retriable]).toEqual(["Lost", "settle", true])
      expect((yield* Effect.promise(() => raw.xpending(channel, "workers")))[0]).toBe(2)
      yield* driver.publish([outgoing(channel, "next")])
      const exit = yield* Fiber.join(running)
      expect(JSON.stringify(exit)).toContain("Another consumer of the group has taken over")
      expect(taken.map(({ raw }) => textOf(raw))).toEqual(numbered(3))
      expect((yield* Effect.promise(() => raw.xpending(channel, "workers")))[0]).toBe(2)
      // what is another's is not given up by us
      expect(yield* Effect.promise(() => raw.get(lock!))).toBe("another")
    }).pipe(Effect.scoped, quiet))

  it.live("X4 lists: a consumer that is stopped loses what it had, and what it then says of it is not heard", () =>
    Effect.gen(function*() {
      const channel = fresh("stopped.lists")
      const broker = yield* Broker.Broker
      const { child, lines } = yield* worker("lists", Redacted.value(server().url), channel, "unordered", "700")
      yield* eventually(() => lines.includes("ready"))
      yield* publish(channel, numbered(5))
      yield* eventually(() => lines.filter((line) => line.startsWith("begun")).length === 5)
      child.kill("SIGSTOP")
      const gate = Latch.makeUnsafe(false)
      const here = yield* consume(channel, () => gate.await, Lanes.unordered(16))
      yield* eventually(() => here.got.length === 5)
      expect(here.got).toEqual(numbered(5))
      child.kill("SIGCONT")
      yield* Effect.sleep("1500 millis")
      expect(yield* broker.lag(channel, "workers")).toEqual([{ partition: 0, messages: 5 }])
      yield* gate.open
      yield* eventually(() =>
        Effect.runPromise(
          Effect.map(lagOf(channel).pipe(Effect.provideService(Broker.Broker, broker)), (lag) => lag === 0)
        )
      )
      expect(here.got).toEqual(numbered(5))
    }).pipe(
      Effect.provide(RedisLists.layer({ url: Redacted.value(server().url), consumer })),
      Effect.scoped,
      quiet
    ))

  it.live("X4 lists: a consumer that others took for dead takes nothing more", () =>
    Effect.gen(function*() {
      const channel = fresh("fenced.lists")
      const raw = yield* plain(server())
      const driver = yield* RedisLists.driver({ url: Redacted.value(server().url) })
      const { leases, running, taken } = yield* watch(driver, channel)
      yield* driver.publish([outgoing(channel, "m")])
      yield* eventually(() => taken.length === 1)
      const [alive] = yield* Effect.promise(() => raw.keys(`*${channel}:alive`))
      yield* Effect.promise(() => raw.del(alive!))
      const error = yield* Effect.flip(leases[0]!.settle!([{ delivery: taken[0]!, outcome: Outcome.Release }]))
      expect([error.reason, error.operation]).toEqual(["Lost", "settle"])
      yield* driver.publish([outgoing(channel, "next")])
      expect(JSON.stringify(yield* Fiber.join(running))).toContain("gave no sign of life")
      expect(taken.map(({ raw }) => textOf(raw))).toEqual(["m"])
    }).pipe(Effect.scoped, quiet))

  it.live("X4 Pub/Sub: while there is no room the socket is not read, and what waits comes in order", () =>
    Effect.gen(function*() {
      const channel = fresh("flood")
      const raw = yield* plain(server())
      const gate = Latch.makeUnsafe(false)
      const here = yield* consume(channel, () => gate.await, Lanes.partition)
      const text = "x".repeat(1024)
      const wanted = numbered(20_000, text)
      for (let i = 0; i < wanted.length; i += 1000) yield* publish(channel, wanted.slice(i, i + 1000))
      const { pending } = yield* here.running.health
      expect(pending).toBeLessThan(10_000)
      // what has no room here waits there
      yield* eventually(async () => / omem=[1-9]/.test(String(await raw.call("CLIENT", "LIST", "TYPE", "pubsub"))))
      // longer than an answer may take: who does not listen misses none
      yield* Effect.sleep("1500 millis")
      yield* gate.open
      yield* eventually(() => here.got.length === wanted.length)
      expect(here.got).toEqual(wanted)
      expect((yield* here.running.health).restarts).toBe(0)
    }).pipe(
      Effect.provide(RedisPubSub.layer({ url: Redacted.value(server().url), requestTimeout: "600 millis" })),
      Effect.scoped,
      quiet
    ))

  it.live("F20 Pub/Sub: a pattern takes what Redis would read as a wildcard for text", () =>
    Effect.gen(function*() {
      const base = fresh("glob")
      const here = yield* consume(`${base}[ab]*.{name}`, () => Effect.void, Lanes.partition)
      for (const channel of [`${base}[ab]*.x`, `${base}a.x`, `${base}[ab]-.x`, `${base}[ab]*.x.y`, `${base}[ab]*.z`]) {
        yield* publish(channel, [channel])
      }
      yield* eventually(() => here.got.includes(`${base}[ab]*.z`))
      expect(here.got).toEqual([`${base}[ab]*.x`, `${base}[ab]*.z`])
    }).pipe(
      Effect.provide(RedisPubSub.layer({ url: Redacted.value(server().url) })),
      Effect.scoped,
      quiet
    ))

  it.live("X4 what was read and not taken in is given back at once when a consumer leaves", () =>
    Effect.gen(function*() {
      const channel = fresh("leaving")
      yield* publish(channel, numbered(100))
      yield* Effect.scoped(Effect.gen(function*() {
        const first = yield* consume(channel, () => Effect.never, Lanes.unordered(4))
        yield* eventually(() => first.got.length === 4)
      }))
      const raw = yield* plain(server())
      const left = yield* Effect.promise(() => raw.call("XINFO", "CONSUMERS", channel, "workers"))
      // who left is no consumer any more
      expect(JSON.stringify(left)).not.toContain("millrace:here")
      const from = performance.now()
      const second = yield* consume(channel, () => Effect.void, Lanes.unordered(4))
      yield* eventually(() => new Set(second.got).size === 100)
      // sooner than a claim of the default: given back, not taken over
      expect(performance.now() - from).toBeLessThan(10_000)
    }).pipe(Effect.provide(RedisStreams.layer({ url: Redacted.value(server().url) })), Effect.scoped, quiet))

  it.live("X4 consumers that died and have nothing left are removed", () =>
    Effect.gen(function*() {
      const channel = fresh("dead")
      const raw = yield* plain(server())
      const layer = RedisStreams.layer({
        url: Redacted.value(server().url),
        consumer: { claim: "100 millis", maximumWait: "50 millis" }
      })
      yield* Effect.gen(function*() {
        const here = yield* consume(channel, () => Effect.void, Lanes.unordered(4))
        yield* Effect.promise(() => raw.call("XGROUP", "CREATECONSUMER", channel, "workers", "millrace:dead:1"))
        yield* Effect.promise(() => raw.call("XGROUP", "CREATECONSUMER", channel, "workers", "somebody"))
        const names = async () => JSON.stringify(await raw.call("XINFO", "CONSUMERS", channel, "workers"))
        yield* eventually(async () => !(await names()).includes("millrace:dead:1"))
        // not ours to remove
        expect(yield* Effect.promise(names)).toContain("somebody")
        yield* publish(channel, ["on"])
        yield* eventually(() => here.got.includes("on"))
      }).pipe(Effect.provide(layer))
    }).pipe(Effect.scoped, quiet))

  it.live("X5, F11 a stream that is trimmed under its group goes on, and says what was lost", () =>
    Effect.gen(function*() {
      const channel = fresh("trimmed")
      const raw = yield* plain(server())
      const said: Array<string> = []
      const logger = Logger.make(({ message }) => {
        said.push(String(message))
        // the source goes on all the same
        throw new Error("the log cannot be written")
      })
      yield* Effect.gen(function*() {
        const later = new Set(["m-0", "m-1"])
        const here = yield* consume(
          channel,
          ({ payload }) =>
            Effect.succeed(later.has(textOf(payload)) ? Outcome.Retry({ after: "300 millis" }) : Outcome.Ack),
          Lanes.unordered(4)
        )
        yield* publish(channel, numbered(10))
        yield* eventually(() => here.got.length === 10)
        yield* eventually(async () => (await raw.xpending(channel, "workers"))[0] === 0)
        yield* Effect.promise(() => raw.xtrim(channel, "MAXLEN", 9))
        // m-0 is gone, m-1 comes again
        yield* eventually(() => here.got.length === 11)
        expect(here.got.filter((text) => text === "m-0")).toEqual(["m-0"])
        yield* eventually(() => said.some((line) => line.includes(`1 messages of ${channel} were deleted`)))
        yield* publish(channel, ["end"])
        yield* eventually(() => here.got.includes("end"))
        expect((yield* here.running.health).restarts).toBe(0)
      }).pipe(Effect.provide([streams(server()), Logger.layer([logger])]))
    }).pipe(Effect.scoped))

  it.live("X5 a stream that is deleted under its group is made anew, and what is published then arrives", () =>
    Effect.gen(function*() {
      for (const lanes of [Lanes.unordered(4), Lanes.key(4)]) {
        const channel = fresh("deleted")
        const raw = yield* plain(server())
        // what comes while the group is gone is not passed over, though it began at the end
        const here = yield* consume(channel, () => Effect.void, lanes, "latest")
        yield* publish(channel, ["before"])
        yield* eventually(() => here.got.includes("before"))
        yield* Effect.promise(() => raw.del(channel))
        yield* publish(channel, ["after"])
        yield* eventually(() => here.got.includes("after"))
      }
    }).pipe(Effect.provide(streams(server())), Effect.scoped, quiet))

  it.live("F11 what waits for its next attempt survives the death of who asked for it, and its attempts go on", () =>
    Effect.gen(function*() {
      const channel = fresh("delayed")
      const raw = yield* plain(server())
      const broker = yield* Broker.Broker
      const first = yield* consume(
        channel,
        () => Effect.succeed(Outcome.Retry({ after: "400 millis" })),
        Lanes.unordered(4)
      )
      yield* publish(channel, ["late"])
      yield* eventually(() => first.got.length === 1)
      yield* eventually(async () => (await raw.xpending(channel, "workers"))[0] === 0)
      // delayed messages are behind, too
      expect(yield* broker.lag(channel, "workers")).toEqual([{ partition: 0, messages: 1 }])
      yield* server().kill
      yield* server().start
      yield* eventually(() => first.got.length >= 3)
      expect(first.attempts.slice(0, 3)).toEqual([1, 2, 3])
    }).pipe(Effect.provide(streams(server())), Effect.scoped, quiet))
})

describeServer(
  "Redis without memory",
  Servers.own({ settings: { maxmemory: "12mb", "maxmemory-policy": "noeviction" } }),
  (server) => {
    for (const kind of ["streams", "lists"] as const) {
      it.live(`X5 ${kind}: a full server refuses to take more with a typed error, and what it has is worked off`, () =>
        Effect.gen(function*() {
          const raw = yield* plain(server())
          yield* Effect.promise(() => raw.flushall())
          const channel = fresh(`full.${kind}`)
          const broker = yield* Broker.Broker
          const large = new Uint8Array(64 * 1024).fill(120)
          let published = 0
          const refused = yield* Effect.flip(
            Effect.forever(Effect.map(broker.publish(outgoing(channel, large)), () => void published++))
          )
          expect([refused.reason, refused.failure, refused.retriable]).toEqual(["Full", "dependency", true])
          expect(refused.message).toContain("is full")
          expect(published).toBeGreaterThan(10)
          const lanes = kind === "streams" ? Lanes.partition : Lanes.unordered(2)
          // a full server refuses to let a list's consumer wait, too, which ends nothing
          const idle = yield* consume(fresh(`empty.${kind}`), () => Effect.void, lanes)
          yield* Effect.sleep("300 millis")
          const here = yield* consume(channel, () => Effect.void, lanes)
          yield* eventually(() => here.got.length === published)
          expect((yield* idle.running.health).restarts).toBe(0)
        }).pipe(
          Effect.provide(
            kind === "streams"
              ? streams(server())
              : RedisLists.layer({ url: Redacted.value(server().url), consumer })
          ),
          Effect.scoped,
          quiet
        ))
    }
  }
)
