/**
 * The promises of a start, for every engine: each runs this suite.
 */
import { assert, it } from "@effect/vitest"
import { Auth, Correlate, Idempotency, type Message, Trace } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { SignalWorkflow, StartWorkflow, WorkflowStarter, WorkflowType } from "@millrace/workflow"
import { Effect, Layer, pipe, Schema } from "effect"
import { describe } from "vitest"
import { Double, Fail, Hold, Refused, seen } from "./workflows.ts"

/** Options of the suite. */
export interface Options {
  /** Begins each key, so that runs on one server do not meet. */
  readonly prefix: string
  /** Keys of the race, at each of which two consumers start at once. */
  readonly races: number
  /** Whether the engine refuses an unknown workflow when it is started. Default: true. */
  readonly refusesUnknown?: boolean
}

const payload = (message: Message<Uint8Array>) => ({ n: Number(message.headers["n"] ?? 1) })
const key = (message: Message<Uint8Array>) => message.key

let position = 0
const deliver = (key: string, n = 1) => Deliveries.make({ key, position: position++, headers: { n: String(n) } })

const double = StartWorkflow.handler({ workflow: Double, key, payload })
const doubled = StartWorkflow.handler({ workflow: Double, key, payload, await: "result" })
const hold = StartWorkflow.handler({ workflow: Hold, key, payload })
const go = SignalWorkflow.handler({
  workflow: Hold,
  key,
  signal: "go",
  schema: Schema.String,
  payload: (message: Message<Uint8Array>) => message.headers["say"] ?? "gone"
})

/** Registers the suite for an engine, whose layer has code for the workflows of `workflows.ts`. */
export const suite = <E>(name: string, engine: Layer.Layer<WorkflowStarter.Service, E>, options: Options): void => {
  const { prefix, races, refusesUnknown = true } = options
  const run = <A, F>(
    effect: Effect.Effect<A, F, WorkflowStarter.Service | Idempotency.Store>
  ): Effect.Effect<A, F | E> => Effect.provide(effect, Layer.merge(engine, Idempotency.layerMemory()))

  describe(`${name}: a message starts a workflow`, () => {
    it.live(
      "T5 T13 the first message starts the execution of its key, and others join it",
      () =>
        run(Effect.gen(function*() {
          const first = deliver(`${prefix}a`)
          const started = yield* hold(first)
          assert.deepStrictEqual(started, {
            _tag: "Started",
            execution: `Hold/${prefix}a`,
            generation: 1,
            result: undefined
          })
          assert.strictEqual((yield* hold(deliver(`${prefix}a`)))._tag, "Joined")
          // a redelivery has the identity of its message
          assert.strictEqual((yield* hold(first))._tag, "Started")
          yield* go(deliver(`${prefix}a`))
        })),
      60_000
    )

    it.live(
      "T5 an execution that has ended answers its result, and its error with its type",
      () =>
        run(Effect.gen(function*() {
          const first = yield* doubled(deliver(`${prefix}b`, 21))
          assert.deepStrictEqual([first._tag, first.result], ["Started", { _tag: "Completed", value: 42 }])
          const second = yield* double(deliver(`${prefix}b`, 21))
          assert.deepStrictEqual([second._tag, second.result], ["AlreadyDone", { _tag: "Completed", value: 42 }])

          const fails = StartWorkflow.handler({ workflow: Fail, key, payload, await: "result" })
          const failed = yield* fails(deliver(`${prefix}c`, 7))
          assert.strictEqual(failed.result._tag, "Failed")
          if (failed.result._tag === "Failed") {
            assert.instanceOf(failed.result.error, Refused)
            assert.strictEqual(failed.result.error?.why, "7 is not accepted")
          }
        })),
      60_000
    )

    it.live(
      "T5 a failed execution is started again as the next generation, by other messages only",
      () =>
        run(Effect.gen(function*() {
          const retried = StartWorkflow.handler({
            workflow: Fail,
            key,
            payload,
            onDone: "restartIfFailed",
            await: "result"
          })
          const first = deliver(`${prefix}d`)
          assert.strictEqual((yield* retried(first)).generation, 1)
          assert.deepInclude(yield* retried(first), { _tag: "AlreadyDone", generation: 1 })
          assert.deepInclude(yield* retried(deliver(`${prefix}d`)), {
            _tag: "Started",
            execution: `Fail/${prefix}d#2`,
            generation: 2
          })
          // an execution that has completed is not started again
          const again = StartWorkflow.handler({
            workflow: Double,
            key,
            payload,
            onDone: "restartIfFailed",
            await: "result"
          })
          yield* again(deliver(`${prefix}e`))
          assert.deepInclude(yield* again(deliver(`${prefix}e`)), { _tag: "AlreadyDone", generation: 1 })
        })),
      60_000
    )

    it.live("T5 T13 a key with another payload is a mismatch, by each choice", () =>
      run(Effect.gen(function*() {
        yield* double(deliver(`${prefix}f`, 1))
        const error = yield* Effect.flip(double(deliver(`${prefix}f`, 2)))
        assert.deepInclude(error, { _tag: "WorkflowMismatch", failure: "validation", execution: `Double/${prefix}f` })
        const joins = StartWorkflow.handler({ workflow: Double, key, payload, onMismatch: "join" })
        assert.strictEqual((yield* joins(deliver(`${prefix}f`, 2)))._tag, "Mismatch")
        const rejects = StartWorkflow.handler({ workflow: Double, key, payload, onMismatch: "reject" })
        assert.strictEqual((yield* rejects(deliver(`${prefix}f`, 2)))._tag, "Reject")
        assert.strictEqual((yield* rejects(deliver(`${prefix}f`, 1)))._tag === "Reject", false)
      })), 60_000)

    it.live("T5 a running execution is joined, ended or left alone, by choice", () =>
      run(Effect.gen(function*() {
        const first = deliver(`${prefix}g`)
        yield* hold(first)
        const fails = StartWorkflow.handler({ workflow: Hold, key, payload, onRunning: "fail" })
        assert.deepInclude(yield* Effect.flip(fails(deliver(`${prefix}g`))), {
          _tag: "WorkflowRunning",
          failure: "conflict"
        })
        assert.strictEqual((yield* fails(first))._tag, "Started")
        const ends = StartWorkflow.handler({ workflow: Hold, key, payload, onRunning: "terminate" })
        const second = deliver(`${prefix}g`)
        assert.deepInclude(yield* ends(second), { _tag: "Started", generation: 2 })
        const starter = yield* WorkflowStarter.Service
        assert.strictEqual(
          (yield* starter.result({ workflow: "Hold", execution: `Hold/${prefix}g` }))._tag,
          "Cancelled"
        )
        yield* go(deliver(`${prefix}g`))
        assert.strictEqual(
          (yield* starter.result({ workflow: "Hold", execution: `Hold/${prefix}g#2` }))._tag,
          "Completed"
        )
      })), 60_000)

    it.live(
      "T5 a signal resumes the execution; without an execution it is retried, after its end refused",
      () =>
        run(Effect.gen(function*() {
          assert.deepInclude(yield* Effect.flip(go(deliver(`${prefix}h`))), {
            _tag: "WorkflowMissing",
            failure: "transient"
          })
          yield* hold(deliver(`${prefix}h`))
          const signalled = yield* go(Deliveries.make({ key: `${prefix}h`, headers: { say: "collected" } }))
          assert.strictEqual(signalled.execution, `Hold/${prefix}h`)
          const starter = yield* WorkflowStarter.Service
          assert.deepStrictEqual(yield* starter.result({ workflow: "Hold", execution: `Hold/${prefix}h` }), {
            _tag: "Completed",
            value: "\"collected\""
          })
          assert.deepInclude(yield* Effect.flip(go(deliver(`${prefix}h`))), {
            _tag: "WorkflowRefused",
            reason: "closed",
            failure: "permanent"
          })
        })),
      60_000
    )

    it.live("T5 a cancelled execution ends as cancelled", () =>
      run(Effect.gen(function*() {
        yield* hold(deliver(`${prefix}i`))
        const target = { workflow: "Hold", execution: `Hold/${prefix}i` }
        const starter = yield* WorkflowStarter.Service
        yield* starter.cancel(target)
        assert.strictEqual((yield* starter.result(target))._tag, "Cancelled")
        assert.deepInclude(yield* Effect.flip(starter.cancel({ ...target, execution: `Hold/${prefix}none` })), {
          _tag: "WorkflowMissing"
        })
      })), 60_000)

    it.live(
      "T5 correlation, causation, principal, trace context and own headers come back in activities",
      () =>
        run(Effect.gen(function*() {
          const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
          const start = pipe(
            StartWorkflow.handler({
              workflow: Double,
              key,
              payload,
              await: "result",
              headers: (message) => ({ Tenant: message.headers["tenant"] ?? "" })
            }),
            Correlate.middleware(),
            Trace.middleware()
          )
          const message = Deliveries.make({
            key: `${prefix}context`,
            headers: { "correlation-id": "c-1", "message-id": "m-1", traceparent, tenant: "acme" }
          })
          yield* Effect.provideService(Effect.suspend(() => start(message)), Auth.Principal, {
            subject: "ada",
            issuer: undefined,
            scopes: [],
            claims: {}
          })
          const calls = [...seen].filter(([id]) => id.startsWith(`Double/${prefix}context/double`))
          assert.strictEqual(calls.length, 1)
          const headers = calls[0]?.[1][0] ?? {}
          assert.deepInclude({ ...headers }, {
            "correlation-id": "c-1",
            "causation-id": "m-1",
            "millrace-principal": "ada",
            tenant: "acme"
          })
          assert.include(headers["traceparent"] ?? "", "0af7651916cd43dd8448eb211c80319c")
        })),
      60_000
    )

    it.live(
      `T5 two consumers race for each of ${races} keys: one starts, one joins, one execution runs`,
      () =>
        run(Effect.gen(function*() {
          const tags = yield* Effect.forEach(
            Array.from({ length: races }, (_, i) => `${prefix}race${i}`),
            (key) => Effect.all([double(deliver(key)), double(deliver(key))], { concurrency: 2 }),
            { concurrency: 16 }
          )
          for (const [a, b] of tags) {
            const pair = [a._tag, b._tag].sort()
            assert.include(pair, "Started")
            assert.notDeepEqual(pair, ["Started", "Started"])
          }
        })),
      120_000
    )

    it.live("T5 bad input is refused for good: keys, payloads, unknown workflows", () =>
      run(Effect.gen(function*() {
        const refused = { _tag: "WorkflowRefused", failure: "permanent" } as const
        assert.deepInclude(yield* Effect.flip(double(deliver(""))), { ...refused, reason: "key" })
        assert.deepInclude(yield* Effect.flip(double(deliver("k".repeat(1001)))), { ...refused, reason: "key" })
        yield* double(deliver(prefix + "k".repeat(900)))
        const Large = WorkflowType.make("Double", { payload: Schema.String })
        const large = StartWorkflow.handler({ workflow: Large, key, payload: () => "x".repeat(3 * 1024 * 1024) })
        assert.deepInclude(yield* Effect.flip(large(deliver(`${prefix}large`))), { ...refused, reason: "size" })
        if (!refusesUnknown) return
        const Unknown = WorkflowType.make("Unknown", { payload: Schema.String })
        const unknown = StartWorkflow.handler({ workflow: Unknown, key, payload: () => "x" })
        assert.deepInclude(yield* Effect.flip(unknown(deliver(`${prefix}u`))), { ...refused, reason: "workflow" })
      })), 60_000)
  })
}
