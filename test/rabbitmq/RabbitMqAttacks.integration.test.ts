import { Broker, type BrokerError } from "@millrace/core"
import { RabbitMq as Servers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { connect } from "amqplib"
import { Effect, Exit, Redacted } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { errorOf, eventually, fresh, numbered, on, outgoing } from "./support.ts"

// a frame of properties is never split, and amqplib writes up to 64 KiB of them
const frameMax = 8192

const make = Servers.own({ settings: { frame_max: String(frameMax) } })

describeServer("RabbitMQ that is used badly", make, (server) => {
  const { consuming, using } = on(server)

  it.live("X4 X5 a message whose headers are longer than a frame is refused alone, and bodies longer than one go through", () =>
    using(Effect.gen(function*() {
      const channel = fresh("frames")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      const { got } = yield* consuming(channel, () => Effect.void)
      const long = outgoing(channel, "long", { headers: { a: "v".repeat(frameMax) } })
      const others = numbered(50)
      const [refused] = yield* Effect.all([
        Effect.exit(broker.publish(long)),
        Effect.forEach(others, (text) => broker.publish(outgoing(channel, text)), { concurrency: "unbounded" })
      ], { concurrency: "unbounded" })
      const error = yield* errorOf(Effect.suspend(() => refused))
      expect([error.reason, error.retriable], error.message).toEqual(["TooLarge", false])
      expect(error.message).toContain("frame_max")
      const body = "b".repeat(10 * frameMax)
      yield* broker.publish(outgoing(channel, body))
      yield* broker.publish(outgoing(channel, "short", { headers: { a: "v".repeat(frameMax - 500) } }))
      yield* eventually(() => got.length === 52)
      expect(new Set(got.map(({ text }) => text))).toEqual(new Set([...others, body, "short"]))
    })))

  it.live("X4 a queue that another connection or another consumer has for itself is a conflict, and said so", () => {
    const [exclusive, consumed] = [fresh("exclusive"), fresh("consumed")]
    return using(
      Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          const model = yield* Effect.acquireRelease(
            Effect.promise(() => connect(Redacted.value(server().url))),
            (each) => Effect.promise(() => each.close())
          )
          yield* Effect.promise(async () => {
            const channel = await model.createChannel()
            await channel.assertQueue(exclusive, { exclusive: true })
            await channel.assertQueue(consumed, { durable: true })
            await channel.consume(consumed, () => {}, { exclusive: true })
          })
          for (const channel of ["exclusive", "consumed"]) {
            const error = yield* errorOf(consuming(channel, () => Effect.void))
            expect([error.reason, error.operation], error.message).toEqual(["Conflict", "consume"])
          }
        }))
        const broker = yield* Broker.Broker
        const { got } = yield* consuming("consumed", () => Effect.void)
        yield* broker.publish(outgoing("consumed", "m"))
        yield* eventually(() => got.length === 1)
      }),
      { channels: { exclusive: { queue: exclusive }, consumed: { queue: consumed } } }
    )
  })

  it.live(
    "X4 X5 a virtual host that is deleted ends what runs in it with NotFound, and all goes on once it is back",
    () =>
      Effect.gen(function*() {
        const vhost = fresh("vhost")
        const channel = fresh("inside")
        const add = server().ctl(
          "eval",
          `rabbit_vhost:add(<<"${vhost}">>, <<"test">>),
           rabbit_auth_backend_internal:set_permissions(
             <<"${server().username}">>, <<"${vhost}">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>).`
        )
        yield* add
        yield* using(
          Effect.gen(function*() {
            const broker = yield* Broker.Broker
            yield* broker.declare({ channel })
            const { got, running } = yield* consuming(channel, () => Effect.void)
            yield* broker.publish(outgoing(channel, "before"))
            yield* eventually(() => got.length === 1)
            yield* server().ctl("delete_vhost", vhost)
            yield* eventually(() => String(Effect.runSync(running.health).lastError).includes("virtual host"))
            const error = yield* errorOf(broker.publish(outgoing(channel, "gone")))
            expect([error.reason, error.operation], error.message).toEqual(["NotFound", "connect"])
            expect((yield* running.health).lastError).toMatchObject({ reason: "NotFound" })
            yield* add
            yield* broker.declare({ channel })
            yield* eventually(() => Effect.runSync(running.health).state === "running")
            yield* broker.publish(outgoing(channel, "after"))
            yield* eventually(() => got.some(({ text }) => text === "after"))
          }),
          { url: `amqp://millrace:millrace@${server().address}/${vhost}` }
        )
      }),
    60_000
  )

  it.live(
    "X4 while RabbitMQ is short of disk publishing fails as full, and goes on when there is room",
    () =>
      using(
        Effect.gen(function*() {
          const channel = fresh("disk")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          yield* broker.publish(outgoing(channel, "before"))
          yield* Effect.acquireUseRelease(
            server().ctl("set_disk_free_limit", "900000GB"),
            () =>
              Effect.gen(function*() {
                yield* Effect.exit(broker.publish(outgoing(channel, "first")))
                const error = yield* errorOf(broker.publish(outgoing(channel, "second")))
                expect([error.reason, error.failure], error.message).toEqual(["Full", "dependency"])
                expect(error.message).toContain("disk")
              }),
            () => Effect.orDie(server().ctl("set_disk_free_limit", "50MB"))
          )
          yield* eventually(async () =>
            Exit.isSuccess(await Effect.runPromiseExit(broker.publish(outgoing(channel, "after"))))
          )
        }),
        { requestTimeout: "2 seconds" }
      ),
    60_000
  )

  it.live(
    "X4 X5 a policy that bounds the queue of a group and rejects what is beyond fails publishing as full",
    () =>
      using(Effect.gen(function*() {
        const channel = fresh("policy")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        const gates: Array<() => void> = []
        const { got } = yield* consuming(
          channel,
          () => Effect.callback<void>((resume) => void gates.push(() => resume(Effect.void))),
          { inFlight: { messages: 1 } }
        )
        const limit = JSON.stringify({ "max-length": 3, overflow: "reject-publish" })
        yield* server().ctl("set_policy", channel, `^${channel}@readers$`, limit, "--apply-to", "queues")
        const confirmed: Array<string> = []
        let last: Exit.Exit<void, BrokerError.BrokerError> = Exit.void
        while (Exit.isSuccess(last) && confirmed.length < 500) {
          const text = `m-${confirmed.length}`
          last = yield* Effect.exit(broker.publish(outgoing(channel, text)))
          if (Exit.isSuccess(last)) confirmed.push(text)
        }
        const error = yield* errorOf(Effect.suspend(() => last))
        expect([error.reason, error.failure, error.retriable], error.message).toEqual(["Full", "throttled", true])
        yield* eventually(() => {
          gates.pop()?.()
          return confirmed.every((text) => got.some((each) => each.text === text))
        })
      })),
    60_000
  )

  it.live(
    "X4 X5 a channel that RabbitMQ ends among confirms fails one message for good; the others are confirmed or may be published again",
    () =>
      using(
        Effect.gen(function*() {
          const channel = fresh("confirms")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const { got } = yield* consuming(channel, () => Effect.void)
          const texts = numbered(3000)
          const exits = yield* Effect.forEach(
            [...texts.slice(0, 1500), "poison", ...texts.slice(1500)],
            (text) =>
              Effect.map(
                Effect.exit(broker.publish(outgoing(text === "poison" ? "nowhere" : channel, text))),
                (exit) => [text, exit] as const
              ),
            { concurrency: "unbounded" }
          )
          const confirmed: Array<string> = []
          for (const [text, exit] of exits) {
            if (Exit.isSuccess(exit)) confirmed.push(text)
            else {
              const error = yield* errorOf(Effect.suspend(() => exit))
              expect([error.reason, error.retriable], error.message).toEqual(
                text === "poison" ? ["NotFound", false] : ["Lost", true]
              )
            }
          }
          yield* eventually(() => {
            const seen = new Set(got.map(({ text }) => text))
            return confirmed.every((text) => seen.has(text))
          })
        }),
        { channels: { nowhere: { exchange: fresh("nowhere") } } }
      ),
    60_000
  )

  it.live(
    "X4 X5 a server that hangs is noticed by its heartbeat: publishing fails as lost, and all goes on when it runs again",
    () =>
      using(
        Effect.gen(function*() {
          const channel = fresh("hangs")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const { got, running } = yield* consuming(channel, () => Effect.void)
          yield* broker.publish(outgoing(channel, "before"))
          yield* eventually(() => got.length === 1)
          const pid = yield* server().pid
          yield* Effect.acquireUseRelease(
            Effect.sync(() => process.kill(pid!, "SIGSTOP")),
            () =>
              Effect.gen(function*() {
                // requestTimeout is longer than this test
                const error = yield* errorOf(broker.publish(outgoing(channel, "lost")))
                expect([error.reason, error.retriable], error.message).toEqual(["Lost", true])
                yield* eventually(() => Effect.runSync(running.health).restarts > 0)
              }),
            () => Effect.sync(() => process.kill(pid!, "SIGCONT"))
          )
          yield* eventually(async () =>
            Exit.isSuccess(await Effect.runPromiseExit(broker.publish(outgoing(channel, "after"))))
          )
          yield* eventually(() => got.some(({ text }) => text === "after"))
        }),
        { heartbeat: "1 second", connectTimeout: "1 second", requestTimeout: "10 minutes" }
      ),
    60_000
  )
})
