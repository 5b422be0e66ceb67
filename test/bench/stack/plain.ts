/**
 * The same behaviour written straightforwardly with what Effect has: an Effect for each message, in which every concern is
 * a few lines.
 */
import { AuditSqlite } from "@millrace/sql"
import { Audit } from "@millrace/core"
import {
  Clock,
  Context,
  Data,
  Duration,
  Effect,
  Exit,
  Layer,
  Metric,
  Option,
  Schedule,
  Schema,
  Scope,
  Tracer
} from "effect"
import { Headers, HttpTraceContext } from "effect/http"
import { RateLimiter } from "effect/persistence"
import { jwtVerify } from "jose"
import { DatabaseSync } from "node:sqlite"
import * as Work from "./work.ts"

class Unauthorized extends Data.TaggedError("Unauthorized") {}
class DecodeError extends Data.TaggedError("DecodeError")<{ readonly fault: "sender" | "bytes" }> {}
class Customer extends Context.Service<Customer, { readonly subject: string }>()("bench/Customer") {}

type Failed = Unauthorized | DecodeError | Work.Declined

type Row = {
  readonly position: number
  readonly key: string
  readonly body: string
  readonly startedAt: number
  readonly completedAt: number
  readonly duration: number
  readonly status: "done" | "deadLettered"
  readonly errorTag: string | undefined
}

interface Rows {
  readonly append: (row: Row) => void
  readonly all: () => ReadonlyArray<{ readonly [column: string]: unknown }>
  readonly close: () => void
}

const constant = { kind: "consumer", channel: Work.channel, partition: 0, handler: Work.handlerName, attempt: 1 }

const inMemory = (): Rows => {
  let rows: Array<Row> = []
  return {
    append: (row) => {
      rows.push(row)
      if (rows.length > 20_000) rows = rows.slice(-10_000)
    },
    all: () => rows.map((row) => Object.assign({}, constant, row)),
    close: () => {}
  }
}

/** The same table; each row is durable when `append` returns. */
const inSqlite = async (filename: string): Promise<Rows> => {
  await Effect.runPromise(Effect.scoped(Effect.provide(Effect.asVoid(Audit.Store), AuditSqlite.layer({ filename }))))
  const database = new DatabaseSync(filename)
  database.exec("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000")
  const insert = database.prepare(
    `INSERT INTO audit (kind, channel, partition, position, key, body, handler, attempt, started_at, completed_at, duration, status, error_tag)
     VALUES ('consumer', ?, 0, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)`
  )
  const select = database.prepare("SELECT *, error_tag AS errorTag FROM audit ORDER BY id")
  return {
    append: ({ body, completedAt, duration, errorTag, key, position, startedAt, status }) =>
      insert.run(
        Work.channel,
        position,
        key,
        body,
        Work.handlerName,
        startedAt,
        completedAt,
        duration,
        status,
        errorTag ?? null
      ),
    all: () => select.all(),
    close: () => database.close()
  }
}

const decoder = new TextDecoder()
const decode = Schema.decodeUnknownEffect(Work.Order)
const parse = (text: string) =>
  Effect.try({ try: (): unknown => JSON.parse(text), catch: () => new DecodeError({ fault: "bytes" }) })

const hideCard = (name: string, value: unknown) => name === "card" ? "<redacted>" : value

const shown = (text: string): string => {
  try {
    return JSON.stringify(JSON.parse(text), hideCard).slice(0, 500)
  } catch {
    return `<${text.length} characters>`
  }
}

const messages = Metric.counter("orders_messages", { incremental: true })
const durations = Metric.timer("orders_duration")
const labels = { channel: Work.channel, group: Work.group }

export const make = async (
  work: Work.Work,
  options: Work.Options & {
    readonly filename: string
    readonly keep: boolean
    readonly inFlight: number
    /** Whether tokens that were verified are kept. */
    readonly cached: boolean
  }
): Promise<Work.Side> => {
  const shop = new Work.Shop(options.keep)
  const spans = Work.makeTracer(options.keep)
  const lines = Work.makeLogger(options.keep)
  const rows = options.audit === "memory" ? inMemory() : await inSqlite(options.filename)
  const letters: Array<{ readonly message: Work.Incoming; readonly headers: { readonly [name: string]: string } }> = []
  const verified = new Map<string, { readonly subject: string; readonly until: number }>()
  const scope = Scope.makeUnsafe()
  const context = await Effect.runPromise(Layer.buildWithScope(
    Layer.mergeAll(
      RateLimiter.layer.pipe(Layer.provide(RateLimiter.layerStoreMemory)),
      lines.layer,
      Layer.succeed(Tracer.Tracer, spans.tracer),
      Layer.succeed(Metric.MetricRegistry, new Map())
    ),
    scope
  ))
  const limiter = Context.get(context, RateLimiter.RateLimiter)

  const verify = (token: string) =>
    Effect.tryPromise({
      try: () =>
        jwtVerify(token, work.publicKey, { algorithms: ["RS256"], issuer: Work.issuer, audience: Work.channel }),
      catch: () => new Unauthorized()
    }).pipe(
      Effect.filterOrFail(
        ({ payload }) => String(payload["scope"]).split(" ").includes(Work.scope),
        () => new Unauthorized()
      ),
      Effect.map(({ payload }) => ({ subject: payload.sub!, until: payload.exp! * 1000 }))
    )

  const authenticate = (message: Work.Incoming) =>
    Effect.gen(function*() {
      const token = /^bearer (.+)$/i.exec(message.headers.authorization)?.[1]
      if (token === undefined) return yield* new Unauthorized()
      if (!options.cached) return yield* verify(token)
      const known = verified.get(token)
      if (known !== undefined && known.until > (yield* Clock.currentTimeMillis)) return known
      const found = yield* verify(token)
      verified.set(token, found)
      return found
    })

  const limits = { algorithm: "token-bucket", onExceeded: "fail", window: "1 second", limit: 1_000_000 } as const

  const place = (message: Work.Incoming) =>
    Effect.gen(function*() {
      const customer = yield* authenticate(message)
      yield* Effect.orDie(limiter.consume({ ...limits, key: message.key }))
      const order = yield* Effect.flatMap(parse(decoder.decode(message.body)), decode).pipe(
        Effect.catchTag("SchemaError", () => new DecodeError({ fault: "sender" }))
      )
      yield* Effect.flatMap(Customer, ({ subject }) => shop.place(order, subject)).pipe(
        Effect.retry({
          schedule: Schedule.jittered(Schedule.exponential("1 millis")),
          times: 3,
          while: (error) => error._tag === "Busy"
        }),
        Effect.catchTag("Busy", Effect.die),
        Effect.provideService(Customer, customer)
      )
    })

  const line = (message: Work.Incoming, exit: Exit.Exit<void, Failed>, error: Failed | undefined, duration: bigint) =>
    Effect.gen(function*() {
      const { spanId, traceId } = yield* Effect.orDie(Effect.currentParentSpan)
      const status = exit._tag === "Success" ? "done" : "failed"
      const text = `process ${Work.channel} ${status}`
      const log = error === undefined
        ? Effect.logInfo(text)
        : error._tag === "Declined" || (error._tag === "DecodeError" && error.fault === "bytes")
        ? Effect.logError(text)
        : Effect.logWarning(text)
      yield* Effect.annotateLogs(log, {
        channel: Work.channel,
        operation: "process",
        status,
        group: Work.group,
        handler: Work.handlerName,
        partition: 0,
        position: message.position,
        attempt: 1,
        key: message.key,
        traceId,
        spanId,
        durationMs: Number(duration) / 1e6,
        ...error === undefined ? {} : { error: error._tag }
      })
    })

  const observed = (message: Work.Incoming) =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const startedAt = clock.currentTimeMillisUnsafe()
      const started = clock.monotonicTimeNanosUnsafe()
      const exit = yield* Effect.exit(place(message))
      const duration = clock.monotonicTimeNanosUnsafe() - started
      const error = Option.getOrUndefined(Exit.findErrorOption(exit))
      const status = error === undefined ? "done" : "failed"
      yield* Metric.update(Metric.withAttributes(messages, { ...labels, status }), 1)
      yield* Metric.update(Metric.withAttributes(durations, labels), Duration.nanos(duration))
      if (error !== undefined) yield* Effect.annotateCurrentSpan("error.type", error._tag)
      rows.append({
        position: message.position,
        key: message.key,
        body: shown(decoder.decode(message.body)),
        startedAt,
        completedAt: startedAt + Math.round(Number(duration) / 1e6),
        duration: Number(duration) / 1e6,
        status: error === undefined ? "done" : "deadLettered",
        errorTag: error?._tag
      })
      if (options.log) yield* line(message, exit, error, duration)
      return yield* exit
    })

  const bury = (message: Work.Incoming) => (error: Failed) =>
    Effect.sync(() => {
      letters.push({ message, headers: { ...message.headers, "dead-letter-error-type": error._tag } })
    })

  const handle = (message: Work.Incoming) =>
    observed(message).pipe(
      Effect.withSpan(`process ${Work.channel}`, {
        kind: "consumer",
        parent: Option.getOrUndefined(HttpTraceContext.fromHeaders(Headers.fromInput(message.headers))),
        attributes: {
          "messaging.system": "memory",
          "messaging.destination.name": Work.channel,
          "messaging.operation.name": "process",
          "messaging.operation.type": "process",
          "messaging.consumer.group.name": Work.group,
          "messaging.destination.partition.id": "0"
        }
      }),
      Effect.catch(bury(message))
    )

  const run = Effect.runPromiseWith(context)
  let next = 0
  return {
    run: (count) => {
      const from = next
      next += count
      const positions = Array.from({ length: count }, (_, i) => from + i)
      return run(
        Effect.forEach(positions, (position) => handle(work.message(position)), {
          concurrency: options.inFlight,
          discard: true
        })
      )
    },
    seen: () =>
      run(Effect.gen(function*() {
        const counted = (status: string) => Metric.value(Metric.withAttributes(messages, { ...labels, status }))
        return {
          placed: shop.placed!,
          letters: letters.map(({ headers, message }) => `${message.position} ${headers["dead-letter-error-type"]}`),
          rows: rows.all().map(Work.rowText),
          spans: spans.kept.map(Work.spanText),
          lines: lines.kept.map(Work.lineText),
          counts: { done: (yield* counted("done")).count, failed: (yield* counted("failed")).count }
        }
      })),
    close: async () => {
      rows.close()
      await Effect.runPromise(Scope.close(scope, Exit.void))
    }
  }
}
