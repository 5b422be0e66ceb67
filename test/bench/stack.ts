import { deepStrictEqual, equal } from "node:assert/strict"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Bench, measure, type Measured, type Variant } from "./Bench.ts"
import * as Ours from "./stack/ours.ts"
import * as Plain from "./stack/plain.ts"
import * as Work from "./stack/work.ts"

interface Way extends Work.Options {
  readonly side: "millrace" | "plain"
  readonly inFlight: number
  readonly cached: boolean
}

const durable: Way = { side: "millrace", audit: "durable", log: false, sampled: 1, inFlight: 1, cached: false }

// the temporary folder may be in memory, where a commit costs nothing
const withFolder = async <A>(run: (filename: string) => Promise<A>): Promise<A> => {
  const place = mkdtempSync(join(process.env["MILLRACE_BENCH_DISK"] ?? tmpdir(), "millrace-stack-"))
  try {
    return await run(join(place, "audit.db"))
  } finally {
    rmSync(place, { recursive: true })
  }
}

const make = (way: Way, work: Work.Work, filename: string, keep: boolean): Promise<Work.Side> =>
  way.side === "millrace"
    ? Ours.make(work, { ...way, filename, keep })
    : Plain.make(work, { ...way, filename, keep })

/** Both handle the same 600 messages, five of six of which are no plain success, and must have done the same. */
const compare = async (way: Way): Promise<void> => {
  const work = await Work.makeWork({ distinct: 600, sampled: way.sampled, mixed: true })
  const seen = (side: Way["side"]) =>
    withFolder(async (filename) => {
      const made = await make({ ...way, side }, work, filename, true)
      await made.run(600)
      const found = await made.seen()
      await made.close()
      return found
    })
  const plain = await seen("plain")
  if (plain.placed.length !== 200 || plain.letters.length !== 400 || plain.rows.length !== 600) {
    throw new Error(`the straightforward stack placed ${plain.placed.length} of 200 orders`)
  }
  const ours = await seen("millrace")
  deepStrictEqual(ours.counts, plain.counts)
  for (const what of ["placed", "letters", "rows", "spans", "lines"] as const) {
    // commits and retries end in their own order
    const expected = plain[what].toSorted()
    for (const [i, found] of ours[what].toSorted().entries()) equal(found, expected[i])
    equal(ours[what].length, expected.length)
  }
}

const timed = (name: string, way: Way): Variant => ({
  name,
  whose: way.side === "millrace" ? "millrace" : "peer",
  run: (): Promise<Measured> =>
    withFolder(async (filename) => {
      const work = await Work.makeWork({ distinct: 4_000, sampled: way.sampled, mixed: false })
      const made = await make(way, work, filename, false)
      const measured = await measure(made.run, { least: 2_000, most: 300_000 })
      await made.close()
      return measured
    })
})

const plain: Way = { ...durable, side: "plain" }

/** P4: what a service needs of every message. */
export const stack: Bench = {
  name: "stack",
  about: "trace, audit, metrics, dead letter, JWT, rate limit, decode, retry: 8 real middlewares, beside plain Effect",
  rounds: 3,
  share: async () => {
    for (const way of [{ ...durable, log: true }, { ...durable, audit: "memory" as const }]) await compare(way)
    return { environment: {}, close: async () => {} }
  },
  variants: [
    timed("millrace", durable),
    timed("millrace, 1 % sampled", { ...durable, sampled: 0.01 }),
    timed("millrace, audit in memory", { ...durable, audit: "memory" }),
    timed("millrace, audit in memory, with Log", { ...durable, audit: "memory", log: true }),
    timed("plain", plain),
    timed("plain, 1 % sampled", { ...plain, sampled: 0.01 }),
    timed("plain, 64 in flight", { ...plain, inFlight: 64 }),
    timed("plain, tokens kept, audit in memory", { ...plain, cached: true, audit: "memory" }),
    timed("plain, tokens kept, audit in memory, with Log", { ...plain, cached: true, audit: "memory", log: true })
  ],
  goals: [
    {
      id: "P4",
      text: "times cheaper than plain Effect, every message traced",
      target: 50,
      better: "higher",
      measured: (of) => of("plain").cpu / of("millrace").cpu
    },
    {
      id: "P4",
      text: "times cheaper than plain Effect, 1 % sampled",
      target: 75,
      better: "higher",
      measured: (of) => of("plain, 1 % sampled").cpu / of("millrace, 1 % sampled").cpu
    }
  ]
}
