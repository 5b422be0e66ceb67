import { it } from "@effect/vitest"
import { Broker, Channel, type Driver, Lanes, type Message, Outcome, Subscription } from "@millrace/core"
import { KafkaAdmin } from "@millrace/kafka"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Deferred, Effect, Exit, Fiber, Latch, Layer, Scope } from "effect"
import { expect } from "vitest"
import { describeKafka } from "../services/describe.ts"
import {
  type Client,
  clients,
  contents,
  eventually,
  fresh,
  optionsOf,
  outgoing,
  plain,
  Recorder,
  textOf
} from "./support.ts"

const asDriver = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  const made = (partitions: number) =>
    Effect.gen(function*() {
      const driver = yield* client.driver(optionsOf(kafka()))
      const channel = fresh("driver")
      yield* driver.declare({ channel, partitions })
      const publish = (...texts: ReadonlyArray<string>) => driver.publish(texts.map((text) => outgoing(channel, text)))
      return { driver, channel, group: fresh("group"), publish }
    })

  interface Life {
    readonly recorder: Recorder
    readonly stop: Effect.Effect<void>
    readonly leave: Effect.Effect<void>
    readonly fiber: Fiber.Fiber<void, unknown>
  }

  const live = (
    driver: Driver.Driver,
    options: Partial<Driver.ConsumeOptions> & { readonly channel: string; readonly group: string },
    recorder = new Recorder()
  ): Effect.Effect<Life, never, Scope.Scope> =>
    Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      const fiber = yield* Effect.forkDetach(
        Scope.provide(driver.consume({ ...plain, ...options }, recorder), scope),
        { startImmediately: true }
      )
      yield* Effect.addFinalizer(() => Fiber.interrupt(fiber))
      yield* eventually(() => recorder.readies > 0 || fiber.pollUnsafe() !== undefined)
      return { recorder, fiber, stop: Effect.asVoid(Fiber.interrupt(fiber)), leave: Scope.close(scope, Exit.void) }
    })

  it.live("X3 a group goes on where its last commit was, and delivers again what no commit passed", () =>
    Effect.gen(function*() {
      const { channel, driver, group, publish } = yield* made(1)
      yield* publish("0", "1", "2", "3", "4")
      const first = yield* live(driver, { channel, group })
      yield* eventually(() => first.recorder.taken.length === 5)
      expect(first.recorder.taken.map(({ position }) => position)).toEqual([0, 1, 2, 3, 4])
      expect(first.recorder.taken[0]!.origin).toEqual({
        system: "kafka",
        channel,
        group,
        partition: 0,
        handler: "test",
        holdLimit: Infinity,
        lasting: true
      })
      yield* first.recorder.lease(0).commit!(3)
      yield* first.stop
      yield* first.leave
      const second = yield* live(driver, { channel, group })
      yield* eventually(() => second.recorder.taken.length === 2)
      expect(second.recorder.texts).toEqual(["3", "4"])
    }).pipe(Effect.scoped))

  it.live("`from` is where a group begins that has no position yet", () =>
    Effect.gen(function*() {
      const { channel, driver, group, publish } = yield* made(1)
      yield* publish("old")
      const late = yield* live(driver, { channel, group, from: "latest" })
      yield* eventually(() => late.recorder.polls > 2)
      yield* publish("new")
      yield* eventually(() => late.recorder.taken.length > 0)
      expect(late.recorder.texts).toEqual(["new"])
      const early = yield* live(driver, { channel, group: fresh("group"), from: "earliest" })
      yield* eventually(() => early.recorder.taken.length === 2)
      expect(early.recorder.texts).toEqual(["old", "new"])
    }).pipe(Effect.scoped))

  it.live(
    "X4 batches wait for room with heartbeats, commits go on meanwhile, and batches are as small as asked",
    () =>
      Effect.gen(function*() {
        const { channel, driver, group, publish } = yield* made(1)
        yield* publish(...Array.from({ length: 25 }, (_, i) => String(i)))
        const recorder = new Recorder()
        const room = yield* Latch.make(false)
        recorder.room = room.await
        const sizes: Array<number> = []
        const offer = recorder.offer
        recorder.offer = (lease, batch) => {
          sizes.push(batch.length)
          return offer(lease, batch)
        }
        const { fiber, leave, stop } = yield* live(driver, { channel, group, batch: 10 }, recorder)
        yield* eventually(() => recorder.taken.length === 10)
        // longer than the session of 6 s: only heartbeats keep the member in
        yield* Effect.sleep("8 seconds")
        expect(recorder.taken.length).toBe(10)
        yield* recorder.lease(0).commit!(7)
        yield* room.open
        yield* eventually(() => recorder.taken.length === 25)
        yield* recorder.lease(0).commit!(20)
        expect(recorder.leases.length).toBe(1)
        expect(sizes).toEqual([10, 10, 5])
        expect(fiber.pollUnsafe()).toBeUndefined()
        yield* stop
        yield* leave
        const next = yield* live(driver, { channel, group })
        yield* eventually(() => next.recorder.taken.length === 5)
        expect(next.recorder.texts).toEqual(["20", "21", "22", "23", "24"])
      }).pipe(Effect.scoped),
    60_000
  )

  it.live("X4 a pause takes nothing and keeps the group", () =>
    Effect.gen(function*() {
      const { channel, driver, group, publish } = yield* made(1)
      const { recorder } = yield* live(driver, { channel, group })
      yield* recorder.lease(0).pause!
      yield* publish("while paused")
      const polls = recorder.polls
      yield* eventually(() => recorder.polls > polls + 20)
      expect(recorder.taken).toEqual([])
      yield* recorder.lease(0).resume!
      yield* eventually(() => recorder.taken.length === 1)
      expect(recorder.leases.length).toBe(1)
    }).pipe(Effect.scoped))

  it.live(
    "X4 interrupted, it takes nothing new and still commits; the group is left with the scope",
    () =>
      Effect.gen(function*() {
        const { channel, driver, group, publish } = yield* made(1)
        const admin = yield* KafkaAdmin.KafkaAdmin
        const { leave, recorder, stop } = yield* live(driver, { channel, group })
        yield* publish("0", "1")
        yield* eventually(() => recorder.taken.length === 2)
        yield* stop
        yield* publish("2")
        yield* Effect.sleep("7 seconds")
        expect(recorder.texts).toEqual(["0", "1"])
        yield* recorder.lease(0).commit!(2)
        expect((yield* admin.describeGroup(group)).members).toHaveLength(1)
        yield* leave
        expect((yield* admin.describeGroup(group)).members).toHaveLength(0)
        expect(yield* admin.lag(group, channel)).toEqual([{ partition: 0, committed: 2, low: 0, high: 3, lag: 1 }])
      }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))),
    60_000
  )

  it.live(
    "X4 a rebalance waits for what runs, commits it, and nothing is lost or settled twice",
    () =>
      Effect.gen(function*() {
        const { channel, driver, group, publish } = yield* made(2)
        const texts = Array.from({ length: 20 }, (_, i) => String(i))
        yield* publish(...texts)
        const first = new Recorder()
        // what runs when the rebalance comes takes a while, and is committed at its end
        const running = yield* Deferred.make<void>()
        first.onRevoke = (lease) =>
          Effect.gen(function*() {
            yield* Deferred.await(running)
            const own = first.taken.filter(({ partition }) => partition === lease.partition)
            yield* Effect.orDie(lease.commit!(own.at(-1)!.position + 1))
          })
        yield* live(driver, { channel, group }, first)
        yield* eventually(() => first.taken.length === 20)
        const second = new Recorder()
        const joining = yield* Effect.forkChild(live(driver, { channel, group }, second))
        yield* Effect.sleep("3 seconds")
        // the first still holds both partitions: the group waits for it
        expect(second.leases).toEqual([])
        expect(first.leases.map(({ closed }) => closed)).toEqual([undefined, undefined])
        yield* Deferred.done(running, Exit.void)
        yield* Fiber.join(joining)
        yield* eventually(() => second.leases.length === 1)
        // by the classic protocol all is given back, and one dealt out again
        const revoked = client.cooperative ? 1 : 2
        expect(first.leases.filter(({ closed }) => closed === "revoke")).toHaveLength(revoked)
        yield* eventually(() => first.leases.some(({ closed }) => closed === undefined))
        yield* publish(...Array.from({ length: 20 }, (_, i) => `later ${i}`))
        yield* eventually(() => first.taken.length + second.taken.length >= 40)
        const all = [...first.texts, ...second.texts]
        expect(all.sort()).toEqual([...texts, ...Array.from({ length: 20 }, (_, i) => `later ${i}`)].sort())
        expect(second.taken.length).toBeGreaterThan(0)
      }).pipe(Effect.scoped),
    60_000
  )

  it.live("X4 a commit for a partition that has gone fails, and changes nothing", () =>
    Effect.gen(function*() {
      const { channel, driver, group, publish } = yield* made(2)
      const admin = yield* KafkaAdmin.KafkaAdmin
      yield* publish(...Array.from({ length: 20 }, (_, i) => String(i)))
      const first = new Recorder()
      yield* live(driver, { channel, group }, first)
      yield* eventually(() => first.taken.length === 20)
      const second = yield* live(driver, { channel, group })
      yield* eventually(() => second.recorder.leases.length === 1)
      const old = first.leases.filter(({ closed }) => closed !== undefined)
      expect(old).toHaveLength(client.cooperative ? 1 : 2)
      for (const { lease } of old) {
        const error = yield* Effect.flip(lease.commit!(5))
        expect(error).toMatchObject({ reason: "Lost", failure: "transient", operation: "settle" })
      }
      expect((yield* admin.lag(group, channel)).map(({ committed }) => committed)).toEqual([undefined, undefined])
      expect(second.recorder.leases).toHaveLength(1)
    }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))), 60_000)

  it.live(
    "X4 a member that the group has forgotten commits nothing, loses its leases and ends",
    () =>
      Effect.gen(function*() {
        const { channel, driver, group, publish } = yield* made(1)
        const admin = yield* KafkaAdmin.KafkaAdmin
        yield* publish("0", "1")
        const recorder = new Recorder()
        // longer than the test: only the commit finds out
        const slow = yield* client.driver(optionsOf(kafka(), {
          consumer: { heartbeatInterval: "20 seconds", sessionTimeout: "60 seconds", maximumWait: "5 seconds" }
        }))
        const { fiber } = yield* live(slow, { channel, group }, recorder)
        yield* eventually(() => recorder.taken.length === 2)
        yield* Effect.promise(() => client.removeMembers(kafka().brokers, group))
        const error = yield* Effect.flip(recorder.lease(0).commit!(1))
        expect(error).toMatchObject({ reason: "Lost", failure: "transient" })
        expect(recorder.leases.map(({ closed }) => closed)).toEqual(["lost"])
        expect(yield* admin.lag(group, channel)).toMatchObject([{ committed: undefined }])
        yield* Fiber.interrupt(fiber)

        const other = fresh("group")
        const next = yield* live(driver, { channel, group: other })
        yield* eventually(() => next.recorder.taken.length === 2)
        yield* Effect.promise(() => client.removeMembers(kafka().brokers, other))
        expect(yield* Effect.flip(Fiber.join(next.fiber))).toMatchObject({ failure: "transient", operation: "consume" })
      }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))),
    60_000
  )

  it.live(
    "X4 a member without messages that the group has forgotten ends with a failure that passes",
    () =>
      Effect.gen(function*() {
        const { channel, driver, group } = yield* made(1)
        const idle = yield* live(driver, { channel, group })
        yield* eventually(() => idle.recorder.leases.length === 1)
        yield* Effect.promise(() => client.removeMembers(kafka().brokers, group))
        expect(yield* Effect.flip(Fiber.join(idle.fiber))).toMatchObject({
          reason: "Lost",
          failure: "transient",
          operation: "consume"
        })
      }).pipe(Effect.scoped),
    60_000
  )

  it.live("a topic that is deleted under its consumer ends it, and says so", () =>
    Effect.gen(function*() {
      const { channel, driver, group, publish } = yield* made(1)
      const admin = yield* KafkaAdmin.KafkaAdmin
      yield* publish("0")
      const { fiber, recorder } = yield* live(driver, { channel, group })
      yield* eventually(() => recorder.taken.length === 1)
      yield* admin.deleteTopic(channel)
      const error = yield* Effect.flip(Fiber.join(fiber))
      expect(error).toMatchObject({ reason: "NotFound", operation: "consume" })
    }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))), 60_000)

  it.live(
    "a deleted topic ends its consumer as such, also where the group is the first to tell",
    () =>
      Effect.gen(function*() {
        const { channel, driver, group, publish } = yield* made(1)
        const admin = yield* KafkaAdmin.KafkaAdmin
        yield* publish("0")
        const { fiber, recorder } = yield* live(driver, { channel, group })
        yield* eventually(() => recorder.taken.length === 1)
        yield* admin.deleteTopic(channel)
        yield* Effect.promise(() => client.removeMembers(kafka().brokers, group))
        const error = yield* Effect.flip(Fiber.join(fiber))
        expect(error).toMatchObject({ reason: "NotFound", operation: "consume" })
      }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))),
    60_000
  )

  it.live("a topic that is missing fails at once", () =>
    Effect.gen(function*() {
      const driver = yield* client.driver(optionsOf(kafka()))
      const channel = fresh("missing")
      const started = performance.now()
      const error = yield* Effect.flip(
        driver.consume({ ...plain, channel, group: "g" }, new Recorder())
      )
      expect(performance.now() - started).toBeLessThan(5000)
      expect(error).toMatchObject({ reason: "NotFound", operation: "consume" })
      expect(error.message).toBe(`The topic ${channel} does not exist: declare it, or set missingTopics to "create".`)
    }).pipe(Effect.scoped))
}

const byEngine = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  const declared = (partitions: number, settings?: Record<string, string>) =>
    Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const channel = fresh("engine")
      yield* broker.declare({ channel, partitions, settings })
      yield* broker.declare({ channel: `${channel}.dead-letters`, partitions: 1 })
      return { broker, channel, group: fresh("group") }
    })

  it.live(
    "X3, F13 retries keep their key's order and nobody else waits; what keeps failing becomes a dead letter",
    () =>
      Effect.gen(function*() {
        const { broker, channel, group } = yield* declared(2)
        const seen: Array<string> = []
        const failures = new Map<string, number>()
        const handler = (message: Message<Uint8Array>) =>
          Effect.suspend((): Effect.Effect<Outcome.Outcome> => {
            const text = textOf(message.payload)
            seen.push(text)
            const failed = failures.get(text) ?? 0
            failures.set(text, failed + 1)
            if (text === "a-1" && failed < 2) return Effect.succeed(Outcome.Retry({ after: "1 second" }))
            return Effect.succeed(text === "b-1" ? Outcome.DeadLetter(new Error("never")) : Outcome.Ack)
          })
        const running = yield* Subscription.run(
          Subscription.make(Channel.bytes(channel), { group, name: "handler", lanes: Lanes.key(16) }, handler)
        )
        for (const text of ["a-1", "a-2", "b-1", "b-2", "c-1", "c-2"]) {
          yield* broker.publish(outgoing(channel, text, { key: text[0]! }))
        }
        yield* eventually(() => seen.includes("c-2") && seen.includes("b-2"))
        expect(seen).not.toContain("a-2")
        yield* eventually(() => seen.includes("a-2"))
        expect(seen.filter((text) => text.startsWith("a"))).toEqual(["a-1", "a-1", "a-1", "a-2"])
        expect((yield* running.health).pending).toBe(0)
        const letters = yield* contents(`${channel}.dead-letters`)
        expect(letters.map((letter) => textOf(letter.raw))).toEqual(["b-1"])
        expect(letters[0]!.headers["dead-letter-error-message"]).toBe("never")
        yield* running.drain
        const admin = yield* KafkaAdmin.KafkaAdmin
        expect((yield* admin.lag(group, channel)).map(({ lag }) => lag)).toEqual([0, 0])
      }).pipe(
        Effect.scoped,
        Effect.provide(Layer.merge(client.layer(optionsOf(kafka())), client.admin(optionsOf(kafka()))))
      ),
    60_000
  )

  it.live("T16, X4 consumers come and go: each message of a key in order, none lost", () =>
    Effect.gen(function*() {
      const { broker, channel, group } = yield* declared(6)
      const total = 3000
      const keys = 30
      const done = new Set<string>()
      const last = new Map<string, number>()
      let repeats = 0
      const overtaken: Array<string> = []
      const handler = (message: Message<Uint8Array>) =>
        Effect.gen(function*() {
          const text = textOf(message.payload)
          const [key = "", n] = text.split(":")
          // a message may come again, but none may be skipped: the next of a key is at most one ahead
          if (Number(n) > (last.get(key) ?? -1) + 1) overtaken.push(`${text} after ${last.get(key)}`)
          if (done.has(text)) repeats++
          if (Number(n) % 7 === 0) yield* Effect.sleep("5 millis")
          last.set(key, Math.max(last.get(key) ?? -1, Number(n)))
          done.add(text)
        })
      const subscription = Subscription.make(
        Channel.bytes(channel),
        { group, name: "handler", lanes: Lanes.key(32) },
        handler
      )
      const publishing = yield* Effect.forkChild(Effect.forEach(
        Array.from({ length: total / keys }, (_, n) => n),
        (n) =>
          Effect.andThen(
            broker.publishAll(
              Array.from({ length: keys }, (_, key) => outgoing(channel, `k${key}:${n}`, { key: `k${key}` }))
            ),
            Effect.sleep("50 millis")
          ),
        { discard: true }
      ))
      const first = yield* Subscription.run(subscription)
      const scope = yield* Scope.make()
      yield* Scope.provide(Subscription.run(subscription), scope)
      yield* Effect.sleep("1 second")
      const third = yield* Subscription.run(subscription)
      yield* Effect.sleep("1 second")
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(publishing)
      yield* eventually(() => done.size === total)
      yield* first.drain
      yield* third.drain
      expect(overtaken).toEqual([])
      // every rebalance waited for what ran
      expect(repeats).toBe(0)
      const admin = yield* KafkaAdmin.KafkaAdmin
      expect((yield* admin.lag(group, channel)).map(({ lag }) => lag)).toEqual([0, 0, 0, 0, 0, 0])
    }).pipe(
      Effect.scoped,
      Effect.provide(Layer.merge(client.layer(optionsOf(kafka())), client.admin(optionsOf(kafka()))))
    ), 90_000)

  it.live("X9 a message is committed only after what it registered is durable", () =>
    Effect.gen(function*() {
      const { broker, channel, group } = yield* declared(1)
      const durable = yield* Deferred.make<void>()
      let handled = 0
      const handler = (message: Message<Uint8Array>) =>
        Effect.sync(() => {
          handled++
          message.after(() => Deferred.await(durable))
        })
      const running = yield* Subscription.run(Subscription.make(Channel.bytes(channel), { group, name: "h" }, handler))
      yield* broker.publishAll([outgoing(channel, "0"), outgoing(channel, "1")])
      yield* eventually(() => handled === 2)
      const admin = yield* KafkaAdmin.KafkaAdmin
      yield* Effect.sleep("500 millis")
      expect(yield* admin.lag(group, channel)).toMatchObject([{ committed: undefined, lag: 2 }])
      yield* Deferred.done(durable, Exit.void)
      yield* running.drain
      expect(yield* admin.lag(group, channel)).toMatchObject([{ committed: 2, lag: 0 }])
    }).pipe(
      Effect.scoped,
      Effect.provide(Layer.merge(client.layer(optionsOf(kafka())), client.admin(optionsOf(kafka()))))
    ), 60_000)

  it.live("X4 pause and resume by the subscription, and a drain that finishes what runs", () =>
    Effect.gen(function*() {
      const { broker, channel, group } = yield* declared(1)
      const started: Array<string> = []
      const ended: Array<string> = []
      const handler = (message: Message<Uint8Array>) =>
        Effect.gen(function*() {
          started.push(textOf(message.payload))
          yield* Effect.sleep("700 millis")
          ended.push(textOf(message.payload))
        })
      const running = yield* Subscription.run(Subscription.make(Channel.bytes(channel), { group, name: "h" }, handler))
      yield* running.pause
      yield* broker.publishAll([outgoing(channel, "0"), outgoing(channel, "1")])
      yield* Effect.sleep("1 second")
      expect(started).toEqual([])
      yield* running.resume
      yield* eventually(() => started.length === 1)
      yield* running.drain
      expect(ended).toEqual(["0"])
      expect(started).toEqual(["0"])
      const admin = yield* KafkaAdmin.KafkaAdmin
      expect(yield* admin.lag(group, channel)).toMatchObject([{ committed: 1, lag: 1 }])
      expect((yield* admin.describeGroup(group)).members).toEqual([])
    }).pipe(
      Effect.scoped,
      Effect.provide(Layer.merge(client.layer(optionsOf(kafka())), client.admin(optionsOf(kafka()))))
    ), 60_000)
}

for (const client of clients) {
  describeKafka(`consuming from Kafka as a driver, by ${client.name}`, asDriver(client))
  describeKafka(`consuming from Kafka by the engine, by ${client.name}`, byEngine(client))
}
