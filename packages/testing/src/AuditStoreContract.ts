/** The contract of every audit store, as one suite. */
import { assert, describe, it } from "@effect/vitest"
import { Audit } from "@millrace/core"
import { Effect, Exit, Layer, Random, Scope } from "effect"

/** Options of `suite`. */
export interface Options {
  /** Whether a new build of the layer finds the rows that an earlier one stored. Default: `forgets`. */
  readonly reopened?: "keeps" | "forgets" | undefined
}

const statuses: ReadonlyArray<Audit.Status> = ["done", "retried", "deadLettered", "rejected", "released", "failed"]

/** An entry to append; omitted fields are those of an ordinary message. */
export const entry = (options: Partial<Audit.Entry> = {}): Audit.Entry => ({
  kind: "consumer",
  channel: "orders",
  partition: 3,
  position: 41,
  key: "customer-7",
  body: "{\"id\":7}",
  handler: "placeOrder",
  attempt: 1,
  startedAt: 1_700_000_000_000,
  completedAt: 1_700_000_000_012,
  duration: 12.5,
  status: "done",
  errorTag: undefined,
  errorMessage: undefined,
  ...options
})

const unique = Effect.map(Random.nextInt, (number) => `c${number.toString(36)}`)

const withoutId = ({ id: _, ...rest }: Audit.Row): Audit.Entry => rest

const appendAll = (entries: ReadonlyArray<Audit.Entry>) =>
  Effect.flatMap(
    Audit.Store,
    (store) => Effect.all(entries.map(store.append), { concurrency: "unbounded", discard: true })
  )

const all = (query: Audit.Query) =>
  Effect.gen(function*() {
    const store = yield* Audit.Store
    const rows: Array<Audit.Row> = []
    let after: string | undefined
    do {
      const page: Audit.Page = yield* store.query({ ...query, after })
      rows.push(...page.rows)
      after = page.next
    } while (after !== undefined)
    return rows
  })

/** The entries that a filter keeps, by time and then by the order in which they were appended. */
const expected = (entries: ReadonlyArray<Audit.Entry>, filter: Audit.Filter, order: "newest" | "oldest") => {
  const found = entries.filter((each) =>
    each.completedAt >= (filter.from ?? -Infinity) && each.completedAt < (filter.to ?? Infinity)
    && each.channel === (filter.channel ?? each.channel) && each.status === (filter.status ?? each.status)
    && each.handler === (filter.handler ?? each.handler)
  ).toSorted((a, b) => a.completedAt - b.completedAt)
  return order === "oldest" ? found : found.toReversed()
}

const texts = ["", "plain", "é 😀 漢字", "quote \" and \\ and '", "\u2028\t\n", "x".repeat(100_000)]

/**
 * Registers the suite that every `Audit.Store` passes, by vitest's `describe`: rows are read as they were written, pages are
 * whole, filters agree with a model, rows are stored when `append` completes, and closing flushes.
 *
 * The layer is built once for each test, on the machine's clock. The store may hold rows of other runs.
 *
 * **Example** (your own store)
 *
 * ```ts
 * import { Audit } from "@millrace/core"
 * import { AuditStoreContract } from "@millrace/testing"
 *
 * export const register = () => AuditStoreContract.suite("memory", Audit.layerMemory())
 * ```
 */
export const suite = <E>(name: string, layer: Layer.Layer<Audit.Store, E>, options: Options = {}): void => {
  const test = <A, F>(title: string, body: (channel: string) => Effect.Effect<A, F, Audit.Store | Scope.Scope>) =>
    it.live(title, () => Effect.flatMap(unique, body).pipe(Effect.provide(layer)))

  describe(`Audit store: ${name}`, () => {
    test("F6 a row comes back as it was appended, whatever its text", (channel) =>
      Effect.gen(function*() {
        const entries = texts.map((text, i) =>
          entry({ channel, key: text, body: text, handler: text, errorTag: text, errorMessage: text, completedAt: i })
        )
        entries.push(
          entry({ channel, position: Number.MAX_SAFE_INTEGER, duration: 0.000_001, partition: 0, completedAt: 100 }),
          entry({
            channel,
            kind: "producer",
            partition: undefined,
            position: undefined,
            key: undefined,
            body: undefined,
            handler: undefined,
            attempt: undefined,
            completedAt: 101
          })
        )
        yield* appendAll(entries)
        const rows = yield* all({ channel, order: "oldest" })
        assert.deepStrictEqual(rows.map(withoutId), entries)
        assert.strictEqual(new Set(rows.map((row) => row.id)).size, entries.length)
      }))

    test("F6 text that a database cannot hold does not cost the row or its neighbours", (channel) =>
      Effect.gen(function*() {
        const bodies = ["a\0b", "\ud800 alone", "beside"]
        yield* appendAll(bodies.map((body, i) => entry({ channel, key: body, body, completedAt: i })))
        const rows = yield* all({ channel, order: "oldest" })
        assert.deepStrictEqual(
          rows.map((row) => row.body!.toWellFormed().replaceAll("\0", "\ufffd")),
          ["a\ufffdb", "\ufffd alone", "beside"]
        )
      }))

    test("X9 a row is there when append completes, and rows of one turn share one effect or are done", (channel) =>
      Effect.gen(function*() {
        const store = yield* Audit.Store
        const first = store.append(entry({ channel }))
        const second = store.append(entry({ channel }))
        assert.isTrue(first === second || (Exit.isExit(first) && Exit.isExit(second)))
        yield* first
        assert.strictEqual(yield* store.count({ channel }), 2)
      }))

    test("P5 thousands at once are all stored, each once, in the order of appending", (channel) =>
      Effect.gen(function*() {
        const store = yield* Audit.Store
        const entries = Array.from({ length: 5_000 }, (_, position) => entry({ channel, position }))
        yield* appendAll(entries)
        assert.strictEqual(yield* store.count({ channel }), 5_000)
        const rows = yield* all({ channel, order: "oldest", limit: 1_024 })
        assert.deepStrictEqual(rows.map((row) => row.position), entries.map((each) => each.position))
      }))

    test("F6 queries by time, channel, status and handler, in pages, agree with a model", (channel) =>
      Effect.gen(function*() {
        const store = yield* Audit.Store
        const pick = <A>(from: ReadonlyArray<A>) =>
          Effect.map(Random.nextIntBetween(0, from.length - 1), (i) => from[i]!)
        const names = ["a", "b"].map((part) => `${channel}-${part}`)
        const handlers = [`${channel}-h1`, `${channel}-h2`]
        const entries: Array<Audit.Entry> = []
        for (let i = 0; i < 300; i++) {
          const completedAt = 1_700_000_000_000 + (yield* Random.nextIntBetween(0, 50))
          entries.push(entry({
            channel: yield* pick(names),
            handler: yield* pick(handlers),
            status: yield* pick(statuses),
            position: i,
            completedAt
          }))
        }
        yield* appendAll(entries)
        for (let i = 0; i < 60; i++) {
          const maybe = <A>(value: A) => Effect.map(Random.nextBoolean, (yes) => yes ? value : undefined)
          const from = 1_700_000_000_000 + (yield* Random.nextIntBetween(0, 50))
          const filter: Audit.Filter = {
            from: yield* maybe(from),
            to: yield* maybe(from + (yield* Random.nextIntBetween(0, 30))),
            status: yield* maybe(yield* pick(statuses)),
            channel: yield* maybe(yield* pick(names)),
            // rows of other runs have other handlers
            handler: yield* pick(handlers)
          }
          const order = yield* pick(["newest", "oldest"] as const)
          const rows = yield* all({ ...filter, order, limit: yield* Random.nextIntBetween(1, 40) })
          const wanted = expected(entries, filter, order)
          assert.deepStrictEqual(rows.map((row) => row.position), wanted.map((each) => each.position))
          assert.strictEqual(yield* store.count(filter), wanted.length)
        }
      }).pipe(Random.withSeed("queries")))

    test("F6 rows that come while one reads neither repeat nor hide those that were there", (channel) =>
      Effect.gen(function*() {
        const store = yield* Audit.Store
        yield* appendAll([1, 2, 3, 4, 5].map((at) => entry({ channel, completedAt: at, position: at })))
        const first = yield* store.query({ channel, limit: 2 })
        assert.deepStrictEqual(first.rows.map((row) => row.position), [5, 4])
        yield* appendAll([6, 7].map((at) => entry({ channel, completedAt: at, position: at })))
        const rest = yield* store.query({ channel, after: first.next })
        assert.deepStrictEqual(rest.rows.map((row) => row.position), [3, 2, 1])
        assert.isUndefined(rest.next)
        assert.isUndefined((yield* store.query({ channel, limit: 7 })).next)
        assert.isDefined((yield* store.query({ channel, limit: 6 })).next)
      }))

    test("F6 prune removes what was completed before a time, and says how much", (channel) =>
      Effect.gen(function*() {
        const store = yield* Audit.Store
        // earlier than any row of another run
        yield* store.prune({ before: -1_000 })
        yield* appendAll([-1_003, -1_002, -1_001, -1_000].map((completedAt) => entry({ channel, completedAt })))
        assert.strictEqual(yield* store.prune({ before: -1_001 }), 2)
        assert.deepStrictEqual((yield* all({ channel })).map((row) => row.completedAt), [-1_000, -1_001])
        assert.strictEqual(yield* store.prune({ before: -1_001 }), 0)
        assert.strictEqual(yield* store.prune({ before: -999 }), 2)
      }))

    test("F6 a query out of range is refused with a typed error", () =>
      Effect.gen(function*() {
        const store = yield* Audit.Store
        for (const query of [{ limit: 0 }, { limit: 10_001 }, { limit: 1.5 }, { after: "x'; drop table audit" }]) {
          const error = yield* Effect.flip(store.query(query))
          assert.instanceOf(error, Audit.AuditError)
          assert.strictEqual(error.reason, "Invalid")
          assert.strictEqual(error.failure, "dependency")
        }
      }))

    if (options.reopened === "keeps") {
      it.live("X9 closing the store writes what nobody waited for, and another build finds it", () =>
        Effect.gen(function*() {
          const channel = yield* unique
          const scope = yield* Scope.make()
          const store = yield* Effect.provide(Audit.Store, yield* Layer.buildWithScope(Layer.fresh(layer), scope))
          // an append starts when it is called, and these are not awaited
          for (let position = 0; position < 3_000; position++) void store.append(entry({ channel, position }))
          yield* Scope.close(scope, Exit.void)
          assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(store.append(entry({ channel })))))
          const rows = yield* Effect.provide(all({ channel, limit: 10_000, order: "oldest" }), Layer.fresh(layer))
          assert.deepStrictEqual(rows.map((row) => row.position), Array.from({ length: 3_000 }, (_, i) => i))
        }))
    }
  })
}
