import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Audit, Channel, Idempotency, type Message, RateLimit } from "@millrace/core"
import { AuditPostgres, IdempotencyPostgres, Inbox, Outbox, RateLimitPostgres } from "@millrace/sql"
import { Deliveries } from "@millrace/testing"
import { Postgres } from "@millrace/testing/servers"
import { Effect, Exit, Layer, pipe, Schema } from "effect"
import { execFileSync } from "node:child_process"
import { describeServer } from "../services/describe.ts"

const Orders = Channel.make("orders", { payload: Schema.String, key: (text) => text })

const minute = 60_000

/** The process and its children: PostgreSQL has one for each connection. */
const family = (pid: number): ReadonlyArray<number> => [
  pid,
  ...execFileSync("ps", ["-o", "pid=", "--ppid", String(pid)], { encoding: "utf8" }).split("\n").filter((line) =>
    line.trim() !== ""
  ).map(Number)
]

const signal = (pid: number, name: "SIGSTOP" | "SIGCONT") =>
  Effect.sync(() => {
    for (const each of family(pid)) {
      try {
        process.kill(each, name)
      } catch {
        // one that has just ended
      }
    }
  })

describeServer("Stores whose PostgreSQL hangs", Postgres.own(), (postgres) => {
  /** While `use` runs, the server takes connections and answers nothing. */
  const hung = <A, E, R>(use: Effect.Effect<A, E, R>) =>
    Effect.flatMap(
      postgres().pid,
      (pid) => Effect.acquireUseRelease(signal(pid!, "SIGSTOP"), () => use, () => signal(pid!, "SIGCONT"))
    )

  /** How an effect ends, which it does within seconds, though the server never answers. */
  const soon = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.timeout(Effect.exit(effect), "4 seconds")

  const told = (exit: Exit.Exit<unknown, unknown>): unknown => {
    const reason = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
    return reason?._tag === "Fail" ? reason.error : exit
  }

  /** The server answers again: all goes on without a new layer. */
  const again = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.retry(Effect.delay(effect, "100 millis"), { times: 100 }).pipe(Effect.timeout("20 seconds"))

  const entry: Audit.Entry = {
    kind: "consumer",
    channel: "c",
    partition: undefined,
    position: undefined,
    key: undefined,
    body: undefined,
    handler: undefined,
    attempt: 1,
    startedAt: 1,
    completedAt: 2,
    duration: 1,
    status: "done",
    errorTag: undefined,
    errorMessage: undefined
  }
  const policy = RateLimit.policy("p", { limit: 1000 })

  it.live(
    "X9 W5 W6 F6 each call fails within its limits, the choices for a missing store act, and all is well afterwards",
    () =>
      Effect.gen(function*() {
        const audit = yield* Audit.Store
        const keys = yield* Idempotency.Store
        const rate = yield* RateLimit.Store
        const claim = (key: string) => keys.claim({ key, fingerprint: "", lease: minute })
        const take = rate.take([{ policy, key: "k", cost: 1 }], 0)
        const calls = (name: string): ReadonlyArray<Effect.Effect<unknown, { readonly message: string }>> => [
          claim(name),
          take,
          audit.append(entry)
        ]
        for (const call of calls("before")) yield* call
        let runs = 0
        const handler = pipe(
          (_: Message<Uint8Array>) => Effect.sync(() => void runs++),
          Idempotency.middleware({ key: () => "hung", unavailable: "run" }),
          RateLimit.middleware({ limit: 5, unavailable: "pass" })
        )
        yield* hung(Effect.gen(function*() {
          const exits = yield* Effect.forEach(calls("hung"), soon, { concurrency: "unbounded" })
          assert.deepStrictEqual(
            exits.map((exit) => (told(exit) as { readonly _tag?: unknown })._tag),
            ["IdempotencyUnavailable", "RateLimitUnavailable", "AuditError"]
          )
          for (const exit of exits) {
            assert.match(String((told(exit) as Error).message), /no answer within 300 ms: the server hangs/)
          }
          // each call before holds a connection still
          const { outcome } = yield* Effect.timeout(Deliveries.run(handler, Deliveries.make()), "4 seconds")
          assert.strictEqual(outcome._tag, "Ack")
          assert.strictEqual(runs, 1)
          for (const call of calls("more")) assert.isTrue(Exit.isFailure(yield* soon(call)))
        }))
        assert.strictEqual((yield* again(claim("after")))._tag, "Claimed")
        yield* again(take)
        yield* again(audit.append(entry))
      }).pipe(Effect.provide(Layer.unwrap(Effect.sync(() => {
        const own = { url: postgres().url, timeout: "300 millis", maximumConnections: 2 } as const
        return Layer.mergeAll(
          AuditPostgres.layer({ ...own, patience: 0 }),
          IdempotencyPostgres.layer({ ...own, patience: 0 }),
          RateLimitPostgres.layer(own)
        )
      })))),
    minute
  )

  it.live(
    "X9 W5 patience is spent on a server that hangs, and a call that waits succeeds when it answers again",
    () =>
      Effect.gen(function*() {
        const keys = yield* Idempotency.Store
        const claim = (key: string) => keys.claim({ key, fingerprint: "", lease: minute })
        yield* claim("first")
        const pid = (yield* postgres().pid)!
        yield* signal(pid, "SIGSTOP")
        const waiting = yield* Effect.forkChild(claim("patient"))
        // several attempts have had no answer
        yield* Effect.sleep("1 second")
        assert.isUndefined(waiting.pollUnsafe())
        yield* signal(pid, "SIGCONT")
        const found = yield* Effect.timeout(
          Effect.fromNullishOr(waiting).pipe(Effect.flatMap((fiber) =>
            Effect.repeat(Effect.delay(Effect.sync(() => fiber.pollUnsafe()), "20 millis"), {
              while: (exit) => exit === undefined
            })
          )),
          "20 seconds"
        )
        assert.deepInclude(found, { _tag: "Success" })
      }).pipe(Effect.provide(Layer.unwrap(Effect.sync(() =>
        IdempotencyPostgres.layer({
          url: postgres().url,
          timeout: "200 millis",
          patience: "30 seconds",
          table: "patient"
        })
      )))),
    minute
  )

  it.live(
    "X9 X10 W5 what is in a transaction ends, too: its begin and its commit have a limit",
    () =>
      Effect.gen(function*() {
        const send = (end: Effect.Effect<void>) =>
          Deliveries.run(
            pipe((_: Message<Uint8Array>) => end, Inbox.middleware()),
            Deliveries.make({ headers: { "message-id": "1" } })
          )
        const publish = Outbox.publisher(Orders).publish("a")
        yield* publish
        const keyed = (key: string, end: Effect.Effect<void>) =>
          Deliveries.run(
            pipe((_: Message<Uint8Array>) => end, Idempotency.middleware({ key: () => key })),
            Deliveries.make()
          )
        assert.strictEqual((yield* keyed("warm", Effect.void)).outcome._tag, "Ack")
        const pid = (yield* postgres().pid)!
        const stop = signal(pid, "SIGSTOP")
        yield* Effect.gen(function*() {
          // the server hangs in the middle of each
          const sent = yield* Effect.timeout(send(stop), "6 seconds")
          assert.strictEqual(sent.outcome._tag, "Retry")
          const claimed = yield* Effect.timeout(keyed("k", stop), "6 seconds")
          assert.strictEqual(claimed.outcome._tag, "Retry")
          const { outcome } = yield* Effect.timeout(send(Effect.void), "4 seconds")
          assert.strictEqual(outcome._tag, "Retry")
          assert.match(String((told(yield* soon(publish)) as Error).message), /no answer within 300 ms/)
        }).pipe(Effect.ensuring(signal(pid, "SIGCONT")))
        // a commit whose answer was missed is found by its id
        const after = yield* again(Effect.filterOrFail(send(Effect.void), ({ outcome }) => outcome._tag === "Ack"))
        assert.strictEqual(after.outcome._tag, "Ack")
        yield* again(publish)
      }).pipe(Effect.provide(Layer.unwrap(Effect.sync(() =>
        Layer.mergeAll(
          Inbox.layer({ timeout: "300 millis" }),
          Outbox.layer({ timeout: "300 millis" }),
          IdempotencyPostgres.layerClient({
            table: "handler",
            transaction: "handler",
            timeout: "300 millis",
            patience: 0
          })
        ).pipe(Layer.provideMerge(PgClient.layer({ url: postgres().url })))
      )))),
    minute
  )
})
