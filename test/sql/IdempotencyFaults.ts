import { assert, it } from "@effect/vitest"
import { type Delivery, Idempotency } from "@millrace/core"
import type { ServerFailed, ServerNotOwned } from "@millrace/testing/servers"
import { Context, Deferred, Effect, Exit, Fiber, Layer, pipe, Schedule } from "effect"
import { TestClock } from "effect/testing"
import { type AddressInfo, connect, createServer, type Server } from "node:net"
import { deliver, runChain } from "../core/support.ts"

type Open = Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable>

interface Killable {
  readonly kill: Effect.Effect<void, ServerFailed | ServerNotOwned>
  readonly start: Effect.Effect<void, ServerFailed | ServerNotOwned>
}

const minute = 60_000

const tagOf = (exit: Exit.Exit<unknown, unknown>): unknown => {
  const reason = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
  return reason?._tag === "Fail" ? (reason.error as { readonly _tag?: unknown })._tag : exit._tag
}

const request = (key: string): Delivery => deliver({ headers: { "idempotency-key": key } })

/** Registers what holds of every durable store, whatever the clocks of its clients say. */
export const registerClocks = (open: () => Open): void => {
  it.effect("W5 clocks of clients that jump end no claim and no result", () =>
    Effect.gen(function*() {
      const store = yield* Idempotency.Store
      const key = `jumps-${process.pid}`
      const ask = (name: string) => store.claim({ key: `${key}-${name}`, fingerprint: "", lease: minute })
      const claim = yield* ask("running")
      const done = yield* ask("done")
      assert(claim._tag === "Claimed" && done._tag === "Claimed")
      yield* store.complete(`${key}-done`, done.token, new Uint8Array([1]), minute)
      for (const hours of [0, 48, 1]) {
        yield* TestClock.setTime(hours * 60 * minute)
        const [running, completed] = [yield* ask("running"), yield* ask("done")]
        assert(running._tag === "Running")
        assert.isTrue(running.left > 0 && running.left <= minute, `${running.left} ms are left`)
        assert.strictEqual(completed._tag, "Completed")
      }
      assert.isTrue(yield* store.complete(`${key}-running`, claim.token, new Uint8Array([2]), minute))
    }).pipe(Effect.provide(Layer.unwrap(Effect.sync(open)))))

  it.live("W5 a handler that is longer than its lease keeps it by its heartbeat", () =>
    Effect.gen(function*() {
      const runs: Array<string> = []
      const chain = pipe(
        (_: Delivery) => Effect.andThen(Effect.sleep(2_500), Effect.sync(() => void runs.push("done"))),
        Idempotency.middleware({ lease: 1_200 })
      )
      const key = `long-${process.pid}`
      const first = yield* Effect.forkChild(runChain(chain, request(key)))
      yield* Effect.sleep(1_800)
      assert.strictEqual(tagOf(yield* runChain(chain, request(key))), "IdempotencyRunning")
      assert.strictEqual((yield* Fiber.join(first))._tag, "Success")
      assert.strictEqual((yield* runChain(chain, request(key)))._tag, "Success")
      assert.deepStrictEqual(runs, ["done"])
    }).pipe(Effect.provide(Layer.unwrap(Effect.sync(open)))))

  it.live("W5 a handler whose lease ends in its middle is interrupted, and does not overwrite the one that came after it", () =>
    Effect.gen(function*() {
      const store = yield* Idempotency.Store
      // its signs of life reach nobody
      const cutOff = Layer.succeed(Idempotency.Store, {
        ...store,
        transaction: undefined,
        extend: () => Effect.fail(new Idempotency.IdempotencyUnavailable({ message: "cut off" }))
      })
      const key = `cut-${process.pid}`
      const begun = yield* Deferred.make<void>()
      let isInterrupted = false
      const slow = pipe(
        (_: Delivery) =>
          Effect.andThen(Deferred.succeed(begun, undefined), Effect.sleep(minute)).pipe(
            Effect.onInterrupt(() => Effect.sync(() => void (isInterrupted = true)))
          ),
        Idempotency.middleware({ lease: 300 })
      )
      const first = yield* Effect.forkChild(Effect.provide(runChain(slow, request(key)), cutOff))
      yield* Deferred.await(begun)
      const second = pipe((_: Delivery) => Effect.void, Idempotency.middleware({ running: "wait" }))
      const next = yield* runChain(second, request(key))
      assert.strictEqual(next._tag, "Success", String(next))
      assert.strictEqual(tagOf(yield* Fiber.join(first)), "IdempotencyLost")
      assert.isTrue(isInterrupted)
      assert.strictEqual((yield* runChain(second, request(key)))._tag, "Success")
    }).pipe(Effect.provide(Layer.unwrap(Effect.sync(open)))))
}

/** Passes bytes to a server and back, until it is told to lose the next answer with its connection. */
const relay = (port: number) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<{ server: Server; lose: { next: boolean } }>((resume) => {
        const lose = { next: false }
        const server = createServer((client) => {
          const upstream = connect(port, "127.0.0.1")
          for (const socket of [client, upstream]) socket.on("error", () => {})
          client.pipe(upstream)
          upstream.on("data", (answer) => {
            if (!lose.next) return client.write(answer)
            lose.next = false
            client.destroy()
            return upstream.destroy()
          })
          client.on("close", () => upstream.destroy())
          upstream.on("close", () => client.destroy())
        }).listen(0, "127.0.0.1", () => resume(Effect.succeed({ server, lose })))
      }),
      ({ server }) => Effect.sync(() => server.close())
    ),
    ({ lose, server }) => ({ lose, port: (server.address() as AddressInfo).port })
  )

/** Registers that nothing is done twice where an answer is lost on its way. */
export const registerLostAnswers = (server: () => { readonly port: number }, open: (port: number) => Open): void => {
  it.live("W5 a claim or a completion whose answer is lost is asked for again, and is the caller's", () =>
    Effect.gen(function*() {
      const { lose, port } = yield* relay(server().port)
      const { complete, claim } = Context.get(yield* Layer.build(open(port)), Idempotency.Store)
      const ask = (key: string) => claim({ key: `lost-${key}`, fingerprint: "", lease: minute })
      const first = yield* ask("a")
      assert(first._tag === "Claimed")
      yield* complete("lost-a", first.token, new Uint8Array([1]), minute)
      lose.next = true
      const second = yield* ask("b")
      assert.isFalse(lose.next)
      assert(second._tag === "Claimed", second._tag)
      lose.next = true
      assert.isTrue(yield* complete("lost-b", second.token, new Uint8Array([2]), minute))
      assert.isFalse(lose.next)
      assert.strictEqual((yield* ask("b"))._tag, "Completed")
    }).pipe(Effect.scoped))
}

/** Registers what holds of every store behind a server that is killed. */
export const registerOutages = (
  server: () => Killable,
  open: (options: { readonly patience: number; readonly name: string }) => Open
): void => {
  it.live("X9 W5 calls wait for a server that is killed and comes back: none fails, and what was kept is kept once", () =>
    Effect.gen(function*() {
      const store = yield* Idempotency.Store
      const kept = new Map<string, number>()
      const wrong: Array<string> = []
      let next = 0
      const one = Effect.suspend(() => {
        const key = `k${next++}`
        return Effect.flatMap(store.claim({ key, fingerprint: "", lease: minute }), (claim) => {
          // also when its first answer was lost with the connection
          if (claim._tag !== "Claimed") return Effect.sync(() => void wrong.push(`${key} is ${claim._tag}`))
          return Effect.map(store.complete(key, claim.token, new Uint8Array([next & 255]), minute), (isKept) => {
            if (!isKept) wrong.push(`${key} is not kept`)
            kept.set(key, claim.token)
          })
        })
      })
      const chunk = Effect.all(Array.from({ length: 20 }, () => one), { concurrency: "unbounded", discard: true })
      const flow = yield* Effect.forkChild(Effect.forever(Effect.andThen(chunk, Effect.sleep("1 millis"))))
      for (let i = 0; i < 3; i++) {
        yield* Effect.sleep("150 millis")
        yield* server().kill
        yield* Effect.sleep("100 millis")
        yield* server().start
      }
      yield* Effect.sleep("300 millis")
      assert.isUndefined(flow.pollUnsafe())
      yield* Fiber.interrupt(flow)
      assert.deepStrictEqual(wrong, [])
      assert.isAbove(kept.size, 100)
      for (const key of kept.keys()) {
        assert.strictEqual((yield* store.claim({ key, fingerprint: "", lease: minute }))._tag, "Completed", key)
      }
    }).pipe(Effect.provide(Layer.unwrap(Effect.sync(() => open({ patience: 30_000, name: "killed" }))))))

  it.live("W5 without patience a server that is gone fails the call with a sentence, and the next one finds it back", () =>
    Effect.gen(function*() {
      const store = yield* Idempotency.Store
      const ask = (key: string) => store.claim({ key, fingerprint: "", lease: minute })
      assert.strictEqual((yield* ask("a"))._tag, "Claimed")
      yield* server().kill
      for (const key of ["b", "c"]) {
        const error = yield* Effect.flip(ask(key))
        assert.strictEqual(error._tag, "IdempotencyUnavailable")
        assert.strictEqual(error.failure, "dependency")
        assert.match(error.message, /(PostgreSQL|Redis).*127\.0\.0\.1/)
      }
      yield* server().start
      const found = yield* Effect.retry(ask("d"), { times: 20, schedule: Schedule.spaced("100 millis") }).pipe(
        Effect.delay("300 millis")
      )
      assert.strictEqual(found._tag, "Claimed")
      assert.strictEqual((yield* ask("a"))._tag, "Running")
    }).pipe(Effect.provide(Layer.unwrap(Effect.sync(() => open({ patience: 0, name: "gone" }))))))
}
