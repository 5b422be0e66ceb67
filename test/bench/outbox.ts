import { PgClient } from "@effect/sql-pg"
import { Broker, Channel, MemoryBroker } from "@millrace/core"
import { Outbox, OutboxRelay } from "@millrace/sql"
import { Postgres } from "@millrace/testing/servers"
import { Context, Effect, Exit, Layer, Redacted, Schema, Scope } from "effect"
import { makeWorkerUtils, run } from "graphile-worker"
import { PgBoss } from "pg-boss"
import { type Bench, type Measured, scaled } from "./Bench.ts"

const urlName = "MILLRACE_BENCH_OUTBOX_URL"

/** One PostgreSQL for all, as durable as it is by default. */
const share = async () => {
  const scope = Scope.makeUnsafe()
  const server = await Effect.runPromise(Scope.provide(Postgres.own(), scope))
  return {
    environment: { [urlName]: Redacted.value(server.url) },
    close: () => Effect.runPromise(Scope.close(scope, Exit.void))
  }
}

/** Rows of one transaction, of one reading, and in flight: the same for all. */
const batch = 256
const connections = 10

/** Milliseconds after which a table is looked at where nothing wakes its reader: pg-boss takes no less. */
const poll = 500

interface Subject {
  /** Commits the numbers in one transaction. */
  readonly put: (numbers: ReadonlyArray<number>) => Promise<unknown>
  readonly close: () => Promise<unknown>
}

const percentile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!

/** Puts rows in batches by four writers until all have arrived, and then one row at a time, 100 a second. */
const measured = (open: (arrived: (number: number) => void) => Promise<Subject>) => async (): Promise<Measured> => {
  let left = 0
  let finished = () => {}
  const at = new Map<number, number>()
  const waits: Array<number> = []
  const subject = await open((number) => {
    const from = at.get(number)
    // a copy counts once
    if (from === undefined) return
    at.delete(number)
    waits.push(performance.now() - from)
    if (--left === 0) finished()
  })
  const phase = async (numbers: ReadonlyArray<number>, put: () => Promise<unknown>): Promise<number> => {
    left = numbers.length
    waits.length = 0
    const all = new Promise<void>((resolve) => finished = resolve)
    const began = performance.now()
    await put()
    await all
    return performance.now() - began
  }
  const put = (numbers: ReadonlyArray<number>) => {
    for (const number of numbers) at.set(number, performance.now())
    return subject.put(numbers)
  }
  const bulk = async (numbers: ReadonlyArray<number>) => {
    const groups = Array.from(
      { length: Math.ceil(numbers.length / batch) },
      (_, i) => numbers.slice(i * batch, (i + 1) * batch)
    )
    const writer = async () => {
      for (let group = groups.pop(); group !== undefined; group = groups.pop()) await put(group)
    }
    await Promise.all([writer(), writer(), writer(), writer()])
  }
  const numbers = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i)
  const warm = numbers(0, scaled(2000))
  await phase(warm, () => bulk(warm))
  const many = numbers(1_000_000, scaled(20_000))
  const cpu = process.cpuUsage()
  const wall = await phase(many, () => bulk(many))
  const used = process.cpuUsage(cpu)
  const singles = numbers(2_000_000, Math.max(20, scaled(1000)))
  await phase(singles, async () => {
    for (const number of singles) {
      await put([number])
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  })
  const sorted = waits.toSorted((a, b) => a - b)
  await subject.close()
  return {
    cpu: (used.user + used.system) / many.length,
    perSecond: many.length / wall * 1000,
    p50: percentile(sorted, 0.5),
    p99: percentile(sorted, 0.99)
  }
}

const url = () => process.env[urlName] ?? ""

const Jobs = Channel.make("jobs", { payload: Schema.Finite })

const ours = measured(async (arrived) => {
  const scope = Scope.makeUnsafe()
  const text = new TextDecoder()
  const tell = (payload: Uint8Array) => arrived(Number(text.decode(payload)))
  const broker = Effect.map(MemoryBroker.make({ partitions: 1 }), ({ broker }) =>
    Broker.Broker.of({
      ...broker,
      publish: (message) => Effect.sync(() => tell(message.payload)),
      publishAll: (messages) => Effect.sync(() => messages.forEach(({ payload }) => tell(payload)))
    }))
  const layer = Layer.mergeAll(Outbox.layer(), OutboxRelay.layer({ batch, poll, keep: 0 })).pipe(
    Layer.provide(Layer.effect(Broker.Broker, broker)),
    Layer.provideMerge(PgClient.layer({ url: Redacted.make(url()), maxConnections: connections }))
  )
  const context = await Effect.runPromise(Layer.buildWithScope(layer, scope))
  const jobs = Outbox.publisher(Jobs)
  return {
    put: (numbers) =>
      Effect.runPromise(Effect.provideContext(jobs.publishAll(numbers), Context.omit(Scope.Scope)(context))),
    close: () => Effect.runPromise(Scope.close(scope, Exit.void))
  }
})

const numberOf = (data: unknown): number =>
  typeof data === "object" && data !== null && "number" in data ? Number(data.number) : NaN

const pgBoss = measured(async (arrived) => {
  const boss = new PgBoss({ connectionString: url(), max: connections })
  await boss.start()
  await boss.createQueue("jobs")
  await boss.work("jobs", { batchSize: batch, pollingIntervalSeconds: poll / 1000 }, (jobs) => {
    for (const { data } of jobs) arrived(numberOf(data))
    return Promise.resolve()
  })
  return {
    put: (numbers) => boss.insert("jobs", numbers.map((number) => ({ data: { number } }))),
    close: () => boss.stop({ graceful: false })
  }
})

const graphileWorker = measured(async (arrived) => {
  const connectionString = url()
  const runner = await run({
    connectionString,
    noHandleSignals: true,
    preset: {
      worker: {
        maxPoolSize: connections,
        pollInterval: poll,
        concurrentJobs: batch,
        localQueue: { size: batch },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0
      }
    },
    taskList: { jobs: (payload) => arrived(numberOf(payload)) }
  })
  const utils = await makeWorkerUtils({ connectionString })
  return {
    put: (numbers) => utils.addJobs(numbers.map((number) => ({ identifier: "jobs", payload: { number } }))),
    close: async () => {
      await utils.release()
      await runner.stop()
    }
  }
})

/** Rows of a transaction, and how soon they are published. */
export const outbox: Bench = {
  name: "outbox",
  about: `20,000 rows committed ${batch} at a time and 1,000 alone, on one PostgreSQL; handlers that do nothing`,
  rounds: 3,
  share,
  variants: [
    { name: "outbox and relay", whose: "millrace", run: ours },
    { name: "pg-boss", whose: "peer", run: pgBoss },
    { name: "graphile-worker", whose: "peer", run: graphileWorker }
  ],
  goals: ["pg-boss", "graphile-worker"].flatMap((peer) => [
    {
      id: "X10",
      text: `rows a second, times ${peer}'s`,
      target: 1,
      better: "higher" as const,
      measured: (of: (variant: string) => Measured) => of("outbox and relay")["perSecond"]! / of(peer)["perSecond"]!
    },
    {
      id: "X10",
      text: `median from the call to the publish of a single row, times ${peer}'s`,
      target: 1,
      better: "lower" as const,
      measured: (of: (variant: string) => Measured) => of("outbox and relay")["p50"]! / of(peer)["p50"]!
    },
    {
      id: "X10",
      text: `99 of 100 from the call to the publish of a single row, times ${peer}'s`,
      target: 1,
      better: "lower" as const,
      measured: (of: (variant: string) => Measured) => of("outbox and relay")["p99"]! / of(peer)["p99"]!
    }
  ])
}
