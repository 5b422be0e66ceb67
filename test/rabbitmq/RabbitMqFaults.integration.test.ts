import { Broker, Lanes, Outcome } from "@millrace/core"
import { RabbitMq as Servers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { errorOf, eventually, fresh, numbered, on, outgoing, textOf } from "./support.ts"

describeServer("RabbitMQ in trouble", Servers.own(), (server) => {
  const { consuming, raw, using } = on(server)

  it.live(
    "X4 X5 a program that dies gives back what it had, in order, with one attempt more",
    () =>
      Effect.gen(function*() {
        const channel = fresh("dies")
        yield* using(Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const first = yield* consuming(channel, () => Effect.never, { lanes: Lanes.partition, grace: { drain: 0 } })
          const second = yield* consuming(channel, () => Effect.void, { lanes: Lanes.partition })
          yield* broker.publishAll(numbered(20).map((text) => outgoing(channel, text)))
          yield* eventually(() => first.got.length === 1)
          // all connections of the client are cut behind its back
          yield* server().ctl("close_all_connections", "test")
          yield* eventually(() => first.got.length + second.got.length >= 2)
          yield* first.running.drain
          yield* eventually(() => second.got.length >= 20)
          expect(second.texts().slice(0, 20)).toEqual(numbered(20))
          expect(second.got[0]!.attempt).toBeGreaterThan(1)
          expect((yield* second.running.health).restarts).toBeGreaterThan(0)
        }))
      }),
    30_000
  )

  it.live(
    "X3 X4 members that keep order take turns: one reads, and the next begins where it left",
    () =>
      using(Effect.gen(function*() {
        const channel = fresh("turns")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        const scopes = [yield* Scope.make(), yield* Scope.make(), yield* Scope.make()]
        const order: Array<string> = []
        let running = 0
        let most = 0
        const members = yield* Effect.forEach(scopes, (scope) =>
          consuming(channel, (message) =>
            Effect.suspend(() => {
              most = Math.max(most, ++running)
              return Effect.andThen(
                Effect.sleep(2),
                Effect.sync(() => {
                  running--
                  order.push(textOf(message.payload))
                })
              )
            }), { lanes: Lanes.partition, inFlight: { messages: 10 } }).pipe(Scope.provide(scope)))
        const wanted = numbered(300)
        yield* broker.publishAll(wanted.map((text) => outgoing(channel, text)))
        for (const [i, scope] of scopes.slice(0, 2).entries()) {
          yield* eventually(() => order.length > 50 * (i + 1))
          yield* Scope.close(scope, Exit.void)
        }
        yield* eventually(() => order.length >= wanted.length)
        expect(order).toEqual(wanted)
        expect(most).toBe(1)
        yield* Scope.close(scopes[2]!, Exit.void)
        expect(members.every(({ got }) => got.length > 0)).toBe(true)
      })),
    30_000
  )

  it.live(
    "F11 X5 what waits for its next attempt survives the broker's own death, in its time and with its attempts",
    () =>
      using(Effect.gen(function*() {
        const channel = fresh("waits")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        const { got, running } = yield* consuming(
          channel,
          ({ attempt }) => Effect.succeed(attempt < 2 ? Outcome.Retry({ after: "3 seconds" }) : Outcome.Ack)
        )
        const settled = eventually(() => Effect.runSync(running.health).pending === 0)
        yield* broker.publish(outgoing(channel, "first"))
        yield* eventually(() => got.length === 2)
        yield* server().sync
        const wanted = numbered(20)
        yield* broker.publishAll(
          wanted.map((text) => outgoing(channel, text, { key: text, headers: { "x-id": text } }))
        )
        yield* eventually(() => got.length === 22)
        yield* settled
        yield* server().kill
        const second = () => got.slice(2).filter(({ attempt }) => attempt > 1).map(({ text }) => text)
        expect(second()).toEqual([])
        yield* server().start
        yield* eventually(() => new Set(second()).size === 20)
        expect(new Set(second())).toEqual(new Set(wanted))
        yield* settled
        yield* Effect.sleep(100)
        expect(yield* broker.lag(channel, "readers")).toEqual([{ partition: 0, messages: 0 }])
        expect(new Set(got.map(({ attempt }) => attempt))).toEqual(new Set([1, 2]))
      })),
    60_000
  )

  it.live(
    "X3 X4 a message that is held longer than RabbitMQ allows comes again; standing first in line is held for ever",
    () =>
      Effect.gen(function*() {
        const channel = fresh("timeout")
        yield* server().ctl(
          "eval",
          "application:set_env(rabbit, consumer_timeout, 1500), application:set_env(rabbit, channel_tick_interval, 200)."
        )
        yield* using(
          Effect.gen(function*() {
            const broker = yield* Broker.Broker
            yield* broker.declare({ channel })
            const idle = yield* consuming(channel, () => Effect.void, { group: "idle", lanes: Lanes.partition })
            const stuck = yield* consuming(
              channel,
              ({ attempt }) => attempt === 1 ? Effect.never : Effect.void,
              { group: "stuck", lanes: Lanes.partition }
            )
            yield* broker.publish(outgoing(channel, "m"))
            yield* eventually(() => stuck.got.length === 2)
            expect(stuck.got.map(({ attempt }) => attempt)).toEqual([1, 2])
            const { lastError } = yield* stuck.running.health
            expect(lastError).toMatchObject({ reason: "Lost" })
            expect(String(lastError)).toContain("consumerTimeout")
            yield* Effect.sleep("3 seconds")
            expect([(yield* idle.running.health).restarts, idle.texts()]).toEqual([0, ["m"]])
          }),
          { consumerTimeout: "1500 millis" }
        ).pipe(Effect.ensuring(Effect.orDie(
          server().ctl(
            "eval",
            "application:set_env(rabbit, consumer_timeout, 1800000), application:set_env(rabbit, channel_tick_interval, 60000)."
          )
        )))
      }),
    60_000
  )

  it.live("X3 X4 what a slow reader is handed ahead is bounded, and bodies of its own size go through", () =>
    using(
      Effect.gen(function*() {
        const channel = fresh("ahead")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        const gates: Array<() => void> = []
        const slow = yield* consuming(channel, () =>
          Effect.callback<void>((resume) => {
            gates.push(() => resume(Effect.void))
          }), { lanes: Lanes.unordered(100) })
        yield* broker.publishAll(numbered(40).map((text) => outgoing(channel, `${text}${"x".repeat(100_000)}`)))
        yield* eventually(() => slow.got.length === 5)
        yield* Effect.sleep(200)
        expect(slow.got.length).toBe(5)
        const lag = yield* broker.lag(channel, "readers")
        expect(lag).toEqual([{ partition: 0, messages: 40 }])
        const [ready] = yield* raw(async (model) => {
          const { messageCount } = await (await model.createChannel()).checkQueue(`${channel}@readers`)
          return [messageCount]
        })
        expect(ready).toBe(35)
        while (slow.got.length < 40 || gates.length > 0) {
          gates.pop()?.()
          yield* Effect.sleep(1)
        }
        yield* eventually(() => Effect.runSync(slow.running.health).pending === 0)
        expect(new Set(slow.texts()).size).toBe(40)
      }),
      { prefetch: 5 }
    ), 30_000)

  it.live(
    "X4 while RabbitMQ is short of memory publishing waits, then fails and says so; consuming goes on",
    () =>
      using(
        Effect.gen(function*() {
          const channel = fresh("blocked")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const { got } = yield* consuming(channel, () => Effect.void)
          yield* broker.publish(outgoing(channel, "before"))
          yield* eventually(() => got.length === 1)
          yield* Effect.acquireUseRelease(
            server().ctl("set_vm_memory_high_watermark", "0.0000001"),
            () =>
              Effect.gen(function*() {
                // RabbitMQ tells a connection once it publishes
                const first = yield* errorOf(broker.publish(outgoing(channel, "first")))
                expect(["Full", "Lost"]).toContain(first.reason)
                const error = yield* errorOf(broker.publish(outgoing(channel, "second")))
                expect([error.reason, error.failure], error.message).toEqual(["Full", "dependency"])
                expect(error.message).toContain("memory")
                const unwell = yield* errorOf(broker.check)
                expect([unwell.reason, unwell.failure]).toEqual(["Full", "dependency"])
              }),
            () => Effect.orDie(server().ctl("set_vm_memory_high_watermark", "0.8"))
          )
          yield* Effect.gen(function*() {
            while ((yield* Effect.exit(broker.publish(outgoing(channel, "after"))))._tag === "Failure") {
              yield* Effect.sleep(50)
            }
          })
          yield* eventually(() => got.some(({ text }) => text === "after"))
          yield* broker.check
        }),
        { requestTimeout: "2 seconds" }
      ),
    60_000
  )

  it.live("X4 X5 a queue that is full and refuses more says so, and takes the next once it was consumed", () => {
    const queue = fresh("full")
    return using(
      Effect.gen(function*() {
        const broker = yield* Broker.Broker
        yield* raw(async (model) =>
          (await model.createChannel()).assertQueue(queue, {
            arguments: { "x-max-length": 2, "x-overflow": "reject-publish" }
          })
        )
        const exits = yield* Effect.forEach(
          numbered(6),
          (text) => Effect.exit(broker.publish(outgoing("bounded", text)))
        )
        expect(exits[0]!._tag).toBe("Success")
        const error = yield* errorOf(exits.at(-1)!)
        expect([error.reason, error.failure, error.retriable]).toEqual(["Full", "throttled", true])
        expect(error.message).toContain("is full")
        yield* raw(async (model) => (await model.createChannel()).purgeQueue(queue))
        yield* broker.publish(outgoing("bounded", "after"))
      }),
      { channels: { bounded: { queue } } }
    )
  })

  /** RabbitMQ answers nothing any more on the channels of publishers that are open now, and does on those that come. */
  const freeze = Effect.suspend(() =>
    server().ctl(
      "eval",
      `[sys:suspend(P) || P <- rabbit_channel:list(),
        {current_function, {Module, _, _}} <- [process_info(P, current_function)], Module =/= sys,
        [{confirm, true}] == rabbit_channel:info(P, [confirm])].`
    )
  )

  it.live(
    "X4 X5 a channel that owes an answer is left: what was sent on it fails, and the next one goes on another",
    () =>
      using(
        Effect.gen(function*() {
          const channel = fresh("frozen")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const first = yield* consuming(channel, () => Effect.void)
          for (const round of [1, 2]) {
            yield* broker.publish(outgoing(channel, `before-${round}`))
            yield* freeze
            const errors = yield* Effect.forEach(
              numbered(20),
              (text) => errorOf(broker.publish(outgoing(channel, text))),
              { concurrency: "unbounded" }
            )
            expect(new Set(errors.map(({ reason, retriable }) => `${reason} ${retriable}`))).toEqual(
              new Set(["Lost true"])
            )
            yield* broker.publish(outgoing(channel, `after-${round}`))
          }
          yield* eventually(() => first.texts().includes("after-2"))
          const kept = first.texts().filter((text) => !text.startsWith("m-"))
          expect(kept.join(" ")).toBe("before-1 after-1 before-2 after-2")
        }),
        { requestTimeout: "2 seconds" }
      ),
    60_000
  )

  it.live(
    "X4 X5 after an outage nobody waits for long for an answer that does not come",
    () =>
      using(
        Effect.gen(function*() {
          const channel = fresh("trial")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          yield* broker.publish(outgoing(channel, "before"))
          yield* server().ctl("close_all_connections", "test")
          yield* Effect.eventually(broker.publish(outgoing(channel, "again")))
          yield* freeze
          // this test ends long before requestTimeout
          const error = yield* errorOf(broker.publish(outgoing(channel, "unanswered")))
          expect([error.reason, error.retriable], error.message).toEqual(["Lost", true])
          yield* broker.publish(outgoing(channel, "after"))
        }),
        { requestTimeout: "10 minutes" }
      ),
    60_000
  )

  it.live(
    "F11 X4 a wait that RabbitMQ does not confirm is written again",
    () =>
      using(
        Effect.gen(function*() {
          const channel = fresh("waits")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const { got } = yield* consuming(
            channel,
            ({ attempt, payload }) =>
              attempt > 1 ? Effect.void : Effect.as(
                // the first opens the channel of waits
                textOf(payload) === "first" ? Effect.void : Effect.orDie(freeze),
                Outcome.Retry({ after: "50 millis" })
              )
          )
          const again = (text: string) => () => got.some((each) => each.text === text && each.attempt > 1)
          yield* broker.publish(outgoing(channel, "first"))
          yield* Effect.andThen(eventually(again("first")), broker.publish(outgoing(channel, "second")))
          yield* eventually(again("second"))
        }),
        { requestTimeout: "2 seconds" }
      ),
    60_000
  )

  it.live(
    "X5 queues that were just made take messages after a kill, once they are on disk",
    () =>
      Effect.gen(function*() {
        const queues = numbered(12, fresh("new"))
        yield* raw(async (model) => {
          const channel = await model.createChannel()
          for (const queue of queues) await channel.assertQueue(queue, { arguments: { "x-queue-type": "quorum" } })
        })
        yield* server().sync
        yield* server().kill
        yield* server().start
        yield* raw(async (model) => {
          const channel = await model.createConfirmChannel()
          for (const queue of queues) channel.sendToQueue(queue, Buffer.from("m"), { persistent: true })
          await channel.waitForConfirms()
        })
      }),
    60_000
  )

  it.live("X4 a queue that is deleted under its readers is made again", () =>
    using(Effect.gen(function*() {
      const channel = fresh("deleted")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      const { got, running } = yield* consuming(channel, () => Effect.void)
      yield* broker.publish(outgoing(channel, "a"))
      yield* eventually(() => got.length === 1)
      yield* raw(async (model) => (await model.createChannel()).deleteQueue(`${channel}@readers`))
      yield* eventually(() =>
        Effect.runSync(running.health).restarts > 0 && Effect.runSync(running.health).state === "running"
      )
      expect((yield* running.health).lastError).toMatchObject({ _tag: "BrokerError", reason: "Lost" })
      yield* broker.publish(outgoing(channel, "b"))
      yield* eventually(() => got.length === 2)
    })))

  it.live(
    "F22 X5 a message whose headers the client cannot write comes again after its delay, with its attempts, and becomes a dead letter",
    () =>
      using(Effect.gen(function*() {
        const channel = fresh("headers")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        yield* broker.declare({ channel: `${channel}.dead-letters` })
        const letters = yield* consuming(`${channel}.dead-letters`, () => Effect.void, { group: "letters" })
        const { got, running } = yield* consuming(
          channel,
          ({ payload }) => textOf(payload) === "long" ? Effect.succeed(Outcome.Retry()) : Effect.void,
          { hold: { attempts: 3 }, backoff: { base: 20, cap: 50, jitter: 0 } }
        )
        // the longest that fits: the copy for a retry, and the dead letter, need room for headers of their own
        yield* raw(async (model) => {
          const other = await model.createConfirmChannel()
          for (let length = 65_536, isWritten = false; !isWritten; length--) {
            try {
              other.publish("millrace", channel, Buffer.from("long"), { headers: { a: "v".repeat(length) } })
              isWritten = true
            } catch (error) {
              if (!(error instanceof RangeError)) throw error
            }
          }
          other.publish("millrace", channel, Buffer.from("next"))
          await other.waitForConfirms()
        })
        yield* eventually(() => letters.got.length === 1)
        expect(got.filter(({ text }) => text === "long").map(({ attempt }) => attempt)).toEqual([1, 2, 3])
        expect(got.filter(({ text }) => text === "next").length).toBe(1)
        expect(yield* running.health).toMatchObject({ pending: 0, restarts: 0, state: "running" })
      })),
    30_000
  )
})
