import {
  Auth,
  Batch,
  Broker,
  Channel,
  Correlate,
  Eager,
  type Handler,
  Log,
  MemoryBroker,
  type Message,
  Middleware,
  type Outgoing,
  Publish,
  Publisher,
  Retry,
  Stack,
  Trace
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Context, Data, Effect, Exit, Fiber, Logger, Option, References, Tracer } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

type Bytes = Message<Uint8Array>

class Broken extends Data.TaggedError("Broken")<{ readonly text: string }> {
  readonly failure = "transient" as const
}

class Tenant extends Context.Service<Tenant, { readonly name: string }>()("test/Tenant") {}

/** Runs one message for each record of headers side by side, to the end. */
const run = <E, R>(handler: Handler<Bytes, unknown, E, R>, all: ReadonlyArray<Record<string, string>>) =>
  Effect.gen(function*() {
    const fibers = yield* Effect.forEach(
      all,
      (headers, position) =>
        Effect.forkChild(runChain(handler, deliver({ position, headers })), { startImmediately: true })
    )
    yield* TestClock.adjust("1 minute")
    return yield* Effect.forEach(fibers, Fiber.join)
  })

const bearer = (name: string) => ({ authorization: `Bearer ${name}` })
const names = ["ada", "bob", "root"]
const verifier = Auth.layerMemory(Object.fromEntries(names.map((subject) => [subject, { subject }])))

const recording = () => {
  const spans: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return { spans, traced: Effect.provideService(Tracer.Tracer, tracer) }
}

const traceOf = (n: number) => ({ traceparent: `00-${String(n).padStart(32, "0")}-${String(n).padStart(16, "0")}-01` })

describe("the services of a batch", () => {
  it("F8, F20 no message is handled as another principal than its own, whatever arrives", () =>
    fc.assert(fc.asyncProperty(
      fc.integer({ min: 1, max: 5 }),
      fc.array(fc.constantFrom(...names), { maxLength: 20 }),
      (size, senders) =>
        Effect.runPromise(
          Effect.gen(function*() {
            const batches: Array<ReadonlyArray<string>> = []
            const handler = Stack.start().use(Correlate.middleware()).use(Auth.middleware()).handle(
              Batch.handler({ size }, (messages: ReadonlyArray<Bytes>) =>
                Effect.map(Auth.Principal, ({ subject }) => {
                  batches.push(messages.map(({ headers }) => headers["authorization"]!))
                  return messages.map(() => subject)
                }))
            )
            const exits = yield* run(handler, senders.map(bearer))
            assert.deepStrictEqual(exits, senders.map((sender) => Exit.succeed(sender)))
            for (const batch of batches) assert.isTrue(batch.length <= size && new Set(batch).size === 1)
            // as few batches as there can be
            const fewest = names.map((name) => Math.ceil(senders.filter((sender) => sender === name).length / size))
            assert.strictEqual(batches.length, fewest.reduce((sum, each) => sum + each, 0))
          }).pipe(Effect.provide([TestClock.layer(), verifier]))
        )
    )))

  it.effect("F20 a service made anew for each message makes batches of one, and a warning names it once", () =>
    Effect.gen(function*() {
      const lines: Array<unknown> = []
      const tenant = Middleware.make<{ provides: Tenant }>()(
        { name: "Tenant", stage: "consume" },
        (next) => (message) => Eager.provide(Tenant, { name: message.headers["tenant"]! }, next, message)
      )
      const handler = Stack.start().use(tenant).handle(
        Batch.handler(
          { size: 2 },
          (messages: ReadonlyArray<Bytes>) => Effect.map(Tenant, ({ name }) => messages.map(() => name))
        )
      )
      const logger = Logger.make(({ message }) => void lines.push(message))
      const all = Array.from({ length: 250 }, (_, i) => String(i))
      const exits = yield* Effect.provide(run(handler, all.map((tenant) => ({ tenant }))), Logger.layer([logger]))
      assert.deepStrictEqual(exits, all.map((each) => Exit.succeed(each)))
      assert.strictEqual(lines.length, 1)
      assert.include(String(lines[0]), "test/Tenant")
    }))

  it.effect("F20 messages with scopes of their own are together, and the scope of the batch is closed before they end", () =>
    Effect.gen(function*() {
      const events: Array<string> = []
      const finalizer = (name: string) => Effect.addFinalizer(() => Effect.sync(() => void events.push(name)))
      const batch = Batch.handler({ size: 2 }, (messages: ReadonlyArray<Bytes>) => {
        events.push(`batch of ${messages.length}`)
        return Effect.andThen(finalizer("batch closed"), Effect.sleep("1 second"))
      })
      const handler = (message: Bytes) =>
        Effect.scoped(Effect.andThen(
          finalizer(`message ${message.position} closed`),
          Effect.tap(batch(message), () => Effect.sync(() => void events.push(`message ${message.position} ended`)))
        ))
      yield* run(handler, [{}, {}])
      assert.deepStrictEqual(events.slice(0, 2), ["batch of 2", "batch closed"])
      assert.strictEqual(events.length, 6)
    }))

  it.effect("F20 an attempt of one message keeps none apart", () =>
    Effect.gen(function*() {
      const sizes: Array<number> = []
      const handler = Stack.start().use(Log.middleware()).handle(
        Retry.middleware()(
          Batch.handler({ size: 2, wait: "10 seconds" }, (messages: ReadonlyArray<Bytes>) => {
            sizes.push(messages.length)
            return messages.length === 1 && sizes.length === 1 ? Effect.fail(new Broken({ text: "once" })) : Effect.void
          })
        )
      )
      const first = yield* Effect.forkChild(runChain(handler, deliver()), { startImmediately: true })
      yield* TestClock.adjust("15 seconds")
      const second = yield* Effect.forkChild(runChain(handler, deliver()), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([yield* Fiber.join(first), yield* Fiber.join(second)], [Exit.void, Exit.void])
      assert.deepStrictEqual(sizes, [1, 2])
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None")))
})

describe("the ids of a batch", () => {
  const flows = ["flow-a", "flow-b", "flow-c"]
  const headersOf = (flow: string) => ({ "correlation-id": flow, "message-id": `message-of-${flow}` })

  it.effect("B9 are those of a new flow, log lines name all messages, and within one message they are its own", () =>
    Effect.gen(function*() {
      const whole: Array<unknown> = []
      const own: Array<unknown> = []
      const handler = Stack.start().use(Correlate.middleware()).handle(
        Batch.handler({ size: 3 }, (messages: ReadonlyArray<Bytes>) =>
          Effect.gen(function*() {
            whole.push(yield* Correlate.Current, yield* References.CurrentLogAnnotations)
            for (const message of messages) {
              own.push(yield* Batch.within(message)(Effect.all([Correlate.Current, References.CurrentLogAnnotations])))
            }
          }))
      )
      yield* Effect.annotateLogs(run(handler, flows.map(headersOf)), "service", "billing")
      const [ids, notes] = whole as [{ readonly id: string; readonly causation: unknown }, Record<string, unknown>]
      assert.notInclude(flows, ids.id)
      assert.isUndefined(ids.causation)
      assert.deepStrictEqual(notes, {
        service: "billing",
        correlationId: ids.id,
        causationIds: flows.map((flow) => `message-of-${flow}`)
      })
      assert.deepStrictEqual(
        own,
        flows.map((flow) => {
          const causation = `message-of-${flow}`
          return [
            { id: flow, causation, upstream: undefined, replaced: undefined },
            { service: "billing", correlationId: flow, causationId: causation }
          ]
        })
      )
    }))

  it.effect("B9 are those of the flow that all messages belong to, and of a message that is alone", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const handler = Stack.start().use(Correlate.middleware()).handle(
        Batch.handler(
          { size: 2 },
          (_: ReadonlyArray<Bytes>) => Effect.map(Correlate.Current, (ids) => void seen.push([ids?.id, ids?.causation]))
        )
      )
      yield* run(handler, [{ "correlation-id": "one" }, { "correlation-id": "one" }, headersOf("alone")])
      assert.deepStrictEqual(seen, [["one", undefined], ["alone", "message-of-alone"]])
    }))

  it.effect("B9 what is published for an item, or answered for it, has the ids of its own message", () =>
    Effect.gen(function*() {
      const memory = yield* MemoryBroker.make({ partitions: 1 })
      const Out = Channel.bytes("out")
      const sent: Array<readonly [string, string | undefined, string | undefined]> = []
      const publish = ({ headers, payload }: Outgoing<Uint8Array>) =>
        Effect.sync(() => void sent.push([String(payload[0]), headers["correlation-id"], headers["causation-id"]]))
      const broker = Broker.Broker.of({ ...memory.broker, publish })
      const handler = Stack.start().use(Correlate.middleware()).use(Publish.middleware(Out)).handle(
        Batch.handler({ size: 3 }, (messages: ReadonlyArray<Bytes>) =>
          Effect.gen(function*() {
            for (const message of messages) {
              yield* Batch.within(message)(Publisher.make(Out).publish(Uint8Array.of(1)))
            }
            yield* Publisher.make(Out).publish(Uint8Array.of(2))
            return messages.map(() => Uint8Array.of(3))
          }))
      )
      yield* Effect.provideService(run(handler, flows.map(headersOf)), Broker.Broker, broker)
      const of = (kind: string) => flows.map((flow) => [kind, flow, `message-of-${flow}`] as const)
      const together = sent.find(([kind]) => kind === "2")!
      assert.deepStrictEqual(sent.filter(([kind]) => kind !== "2"), [...of("1"), ...of("3")])
      assert.isDefined(together[1])
      assert.notInclude(flows, together[1])
      assert.isUndefined(together[2])
    }))
})

describe("the spans of a batch", () => {
  it.effect("F5 messages of several traces are linked to one span, none is its parent, and secrets stay out", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const handler = Stack.start().use(Trace.middleware()).handle(
        Batch.handler({ size: 3 }, (messages: ReadonlyArray<Bytes>) =>
          Effect.gen(function*() {
            yield* Effect.void.pipe(Effect.withSpan("whole"))
            yield* Batch.within(messages[1]!)(Effect.void.pipe(Effect.withSpan("of the second")))
            return yield* Effect.fail(new Broken({ text: "x" }))
          }))
      )
      yield* traced(run(handler, [1, 2, 3].map(traceOf)))
      const own = spans.slice(0, 3)
      const [batch, whole, second] = spans.slice(3)
      assert.deepStrictEqual(own.map(({ traceId }) => Number(traceId)), [1, 2, 3])
      assert.isTrue(Option.isNone(batch!.parent))
      assert.deepStrictEqual(batch!.links.map(({ span }) => span.spanId), own.map(({ spanId }) => spanId))
      assert.strictEqual(batch!.attributes.get("messaging.batch.message_count"), 3)
      assert.strictEqual(batch!.attributes.get("error.type"), "Broken")
      assert.strictEqual(Option.getOrThrow(whole!.parent).spanId, batch!.spanId)
      assert.strictEqual(Option.getOrThrow(second!.parent).spanId, own[1]!.spanId)
      for (const span of spans) assert.strictEqual(span.status._tag, "Ended")
    }))

  it.effect("F5 of messages that no sender samples there is no span, and nothing inside is sampled", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      let inside: Tracer.AnySpan | undefined
      const handler = Stack.start().use(Trace.middleware()).handle(
        Batch.handler(
          { size: 2 },
          (_: ReadonlyArray<Bytes>) =>
            Effect.map(Effect.serviceOption(Tracer.ParentSpan), (span) => {
              inside = Option.getOrUndefined(span)
            })
        )
      )
      const headers = [1, 2].map((n) => ({ traceparent: traceOf(n).traceparent.replace(/1$/, "0") }))
      yield* traced(run(handler, headers))
      assert.deepStrictEqual(spans, [])
      assert.strictEqual(inside?.sampled, false)
    }))
})
