/**
 * The stack as Millrace has it, on its broker in memory: publish, engine and acknowledgement are part of what is measured.
 */
import {
  Audit,
  Auth,
  Broker,
  Channel,
  DeadLetter,
  DeadLetters,
  Decode,
  Log,
  MemoryBroker,
  Metrics,
  Outgoing,
  RateLimit,
  Retry,
  Stack,
  Subscription,
  Trace
} from "@millrace/core"
import { Jwt } from "@millrace/security"
import { AuditSqlite } from "@millrace/sql"
import { Context, Effect, Exit, Layer, pipe, Scope, Stream, Tracer } from "effect"
import * as Work from "./work.ts"

const Orders = Channel.make(Work.channel, { payload: Work.Order })

const pipeline = (shop: Work.Shop, withLog: boolean) => {
  const handler = Stack.start()
    .use(Audit.middleware({ redact: { fields: ["card"] } }))
    .use(Metrics.middleware())
    .use(DeadLetter.tags("Declined"))
    .use(Auth.middleware({ scopes: [Work.scope] }))
    .use(RateLimit.middleware({ by: "key", limit: 1_000_000 }))
    .use(Decode.middleware(Orders))
    .use(Retry.middleware({ schedule: Retry.exponential({ base: "1 millis" }), while: { tags: ["Busy"] } }))
    .handle((message) => Effect.flatMap(Auth.Principal, ({ subject }) => shop.place(message.payload, subject)))
  return withLog ? pipe(handler, Log.middleware(), Trace.middleware()) : pipe(handler, Trace.middleware())
}

/** The most messages that are published and not handled yet. */
const ahead = 8_192

export const make = async (
  work: Work.Work,
  options: Work.Options & { readonly filename: string; readonly keep: boolean }
): Promise<Work.Side> => {
  const shop = new Work.Shop(options.keep)
  const spans = Work.makeTracer(options.keep)
  const lines = Work.makeLogger(options.keep)
  const scope = Scope.makeUnsafe()
  const memory = await Effect.runPromise(MemoryBroker.make({ partitions: 1 }))
  const layer = Layer.mergeAll(
    options.audit === "memory" ? Audit.layerMemory() : AuditSqlite.layer({ filename: options.filename }),
    RateLimit.layerMemory(),
    Metrics.layer,
    Jwt.layer({
      keys: { jwks: { keys: [work.jwk] } } as never,
      algorithms: ["RS256"],
      issuer: Work.issuer,
      audience: Work.channel
    }),
    lines.layer,
    Layer.succeed(Tracer.Tracer, spans.tracer),
    Layer.succeed(Broker.Broker, memory.broker)
  )
  const context = await Effect.runPromise(Layer.buildWithScope(layer, scope))
  const run = Effect.runPromiseWith(context)
  const subscription = Subscription.make(
    Orders,
    { group: Work.group, name: Work.handlerName },
    pipeline(shop, options.log)
  )
  const running = await run(Scope.provide(Subscription.run(subscription), scope))
  let published = 0
  const settled = () => memory.positions(Work.channel, Work.group)[0]!
  const publish = (until: number) =>
    Effect.whileLoop({
      while: () => published < until,
      step: () => {},
      body: () =>
        Effect.suspend(() => {
          if (published - settled() > ahead) return Effect.sleep(1)
          const batch: Array<Outgoing<Uint8Array>> = []
          for (let i = 0; i < 256 && published < until; i++) {
            const { body, headers, key } = work.message(published++)
            batch.push(new Outgoing(Work.channel, body, key, headers))
          }
          return Effect.andThen(memory.broker.publishAll(batch), Effect.yieldNow)
        })
    })
  const store = Context.get(context, Audit.Store)
  return {
    run: (count) =>
      run(Effect.gen(function*() {
        const until = published + count
        yield* publish(until)
        while (settled() < until) yield* Effect.sleep(1)
      })),
    seen: () =>
      run(Effect.gen(function*() {
        const { rows } = yield* store.query({ order: "oldest", limit: 10_000 })
        const letters = yield* Stream.runCollect(DeadLetters.list(DeadLetters.channelOf(Work.channel)))
        const [counted] = yield* Metrics.snapshot
        return {
          placed: shop.placed!,
          letters: letters.map((letter) => `${letter.position} ${letter.errorType}`),
          rows: rows.map((row) => Work.rowText({ ...row })),
          spans: spans.kept.map(Work.spanText),
          lines: lines.kept.filter((line) => line.includes("\"operation\"")).map(Work.lineText),
          counts: { done: counted!.done, failed: counted!.failed }
        }
      })),
    close: async () => {
      await run(running.drain)
      await Effect.runPromise(Scope.close(scope, Exit.void))
    }
  }
}
