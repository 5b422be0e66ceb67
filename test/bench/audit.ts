import { Audit } from "@millrace/core"
import { AuditSqlite } from "@millrace/sql"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { type Bench, type Measured, scaled, stopwatch } from "./Bench.ts"

// as decoded bytes are: one piece
const flat = (text: string): string => Buffer.from(text).toString()

const entry = (position: number) => ({
  kind: "consumer" as const,
  channel: "orders",
  partition: position & 7,
  position,
  key: flat(`customer-${position & 63}`),
  body: flat(`{"id":"5f0c3a1e","total":129.5,"currency":"EUR","position":${position},"note":"${"x".repeat(120)}"}`),
  handler: "placeOrder",
  attempt: 1,
  startedAt: 0,
  completedAt: 0,
  duration: 12.5,
  status: position % 100 === 0 ? "retried" as const : "done" as const,
  errorTag: undefined,
  errorMessage: undefined
})

// made beforehand, as what is measured is the store, and used again when they are long written, at a later time: 16 in a
// millisecond
const entries = Array.from({ length: 8_192 }, (_, i) => entry(i))
const at = (position: number): Audit.Entry => {
  const each = entries[position & 8_191]!
  each.startedAt = 1_700_000_000_000 + (position >> 4)
  each.completedAt = each.startedAt + 12
  return each
}

// the temporary folder may be in memory, where a commit costs nothing
const folder = () => mkdtempSync(join(process.env["MILLRACE_BENCH_DISK"] ?? tmpdir(), "millrace-audit-"))

const withStore = async <A>(
  options: Partial<AuditSqlite.Options>,
  run: (store: Audit.Store["Service"]) => Promise<A>
): Promise<A> => {
  const place = folder()
  const scope = Scope.makeUnsafe()
  const layer = AuditSqlite.layer({ filename: join(place, "audit.db"), ...options })
  try {
    return await run(Context.get(await Effect.runPromise(Layer.buildWithScope(layer, scope)), Audit.Store))
  } finally {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(place, { recursive: true })
  }
}

let next = 0

/** Chunks as an engine hands them on: each waits for one effect, and so many messages are in flight at most. */
const flow = (store: Audit.Store["Service"], chunk: number, chunks: number, inFlight: number) => {
  return Effect.forEach(Array.from({ length: chunks }), () =>
    Effect.suspend(() => {
      let last: Effect.Effect<void, Audit.AuditError> = Effect.void
      let waits: Effect.Effect<void, Audit.AuditError> = Effect.void
      for (let i = 0; i < chunk; i++) {
        const each = store.append(at(next++))
        // a chunk that fills one group goes on in the next
        if (each !== last) waits = waits === Effect.void ? each : Effect.andThen(waits, each)
        last = each
      }
      return waits
    }), { concurrency: inFlight / chunk, discard: true })
}

const ours = (options: Partial<AuditSqlite.Options> = {}): Promise<Measured> =>
  withStore(options, async (store) => {
    await Effect.runPromise(flow(store, 256, scaled(100), 4_096))
    const chunks = scaled(600)
    const rows = chunks * 256
    const stop = stopwatch()
    const thread = process.threadCpuUsage()
    await Effect.runPromise(flow(store, 256, chunks, 4_096))
    const own = process.threadCpuUsage(thread)
    return { ...stop(rows), loop: (own.user + own.system) / rows }
  })

/** One row at a time, each awaited: what a message waits when nothing else happens. */
const alone = (): Promise<Measured> =>
  withStore({}, async (store) => {
    const rows = scaled(2_000)
    const one = (count: number) =>
      Effect.runPromise(
        Effect.forEach(Array.from({ length: count }, (_, i) => i), (i) => store.append(at(i)), { discard: true })
      )
    await one(scaled(200))
    const stop = stopwatch()
    await one(rows)
    return stop(rows)
  })

/** The same schema, in the same file, by the thread that handles messages: a commit for each group of rows. */
const byHand = (group: number, count: number) => async (): Promise<Measured> => {
  const place = folder()
  const filename = join(place, "audit.db")
  // the store makes the schema
  await Effect.runPromise(Effect.scoped(Effect.provide(Effect.asVoid(Audit.Store), AuditSqlite.layer({ filename }))))
  const database = new DatabaseSync(filename)
  database.exec("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000")
  const insert = database.prepare(
    `INSERT INTO audit (kind, channel, partition, position, key, body, handler, attempt, started_at, completed_at, duration, status)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
  )
  const run = (count: number) => {
    for (let i = 0; i < count; i++) {
      if (group > 1 && i % group === 0) database.exec("BEGIN IMMEDIATE")
      const each = at(i)
      insert.run(
        each.kind,
        each.channel,
        each.partition!,
        each.position!,
        each.key!,
        each.body!,
        each.handler!,
        each.attempt!,
        each.startedAt,
        each.completedAt,
        each.duration,
        each.status
      )
      if (group > 1 && (i % group === group - 1 || i === count - 1)) database.exec("COMMIT")
    }
  }
  run(scaled(count) / 10)
  const rows = scaled(count)
  const stop = stopwatch()
  run(rows)
  const measured = stop(rows)
  database.close()
  rmSync(place, { recursive: true })
  return { ...measured, loop: measured.cpu }
}

/** P5: durable rows by group commit. */
export const audit: Bench = {
  name: "audit",
  about: "durable audit rows in SQLite (WAL, synchronous = FULL), beside a commit for each message",
  rounds: 3,
  variants: [
    { name: "millrace, in flow", whose: "millrace", run: () => ours() },
    { name: "millrace, synchronous normal", whose: "millrace", run: () => ours({ synchronous: "normal" }) },
    { name: "millrace, one at a time", whose: "millrace", run: alone },
    { name: "commit for each message", whose: "peer", run: byHand(1, 3_000) },
    { name: "commit for each 1,000 messages", whose: "limit", run: byHand(1_000, 150_000) }
  ],
  goals: [
    {
      id: "P5",
      text: "times the rows of a commit for each message",
      target: 60,
      better: "higher",
      measured: (of) => of("millrace, in flow")["perSecond"]! / of("commit for each message")["perSecond"]!
    },
    {
      id: "P5",
      text: "microseconds of the event loop for a row",
      target: 1,
      better: "lower",
      measured: (of) => of("millrace, in flow")["loop"]!
    },
    {
      id: "P5",
      text: "commits that a row alone waits for",
      target: 2,
      better: "lower",
      measured: (of) => of("commit for each message")["perSecond"]! / of("millrace, one at a time")["perSecond"]!
    }
  ]
}
