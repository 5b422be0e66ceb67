/** The contract of every store of tasks, as one suite. */
import { assert, describe, it } from "@effect/vitest"
import { TaskStore } from "@millrace/core"
import { Clock, Deferred, Effect, Exit, Layer, Random, Scope } from "effect"

/** Options of `suite`. */
export interface Options {
  /** Whether a new build of the layer finds the tasks of an earlier one. Default: `forgets`. */
  readonly reopened?: "keeps" | "forgets" | undefined
}

type Store = TaskStore.Store["Service"]

const minute = 60_000

const unique = Effect.map(Random.nextInt, (number) => `t${number.toString(36)}`)

const make = (id: string, more: Partial<TaskStore.NewTask> = {}): TaskStore.NewTask => ({
  id,
  isNamed: true,
  queue: `queue ${id.slice(0, 4)}`,
  task: "resize",
  payload: Uint8Array.of(0, 1, 255),
  headers: { "correlation-id": "c" },
  due: { after: minute },
  expires: undefined,
  keep: minute,
  ...more
})

let owners = 0

const begin = (store: Store, id: string, more: Partial<TaskStore.Begin> = {}) =>
  store.begin(id, { worker: "w", owner: `o${owners++}-${id}`, lease: minute, attempts: 10, ...more })

const held = (begun: TaskStore.Begun): TaskStore.Held => {
  assert(begun._tag === "Begun", `expected an attempt, got ${begun._tag}`)
  return begun.held
}

const problem = { tag: "Broken", message: "it broke" }

const read = (store: Store, id: string) =>
  Effect.map(store.read(id), (record) => {
    assert(record !== undefined, `there is no record of ${id}`)
    return record
  })

/** Waits until so many milliseconds have surely passed by the store's clock. */
const outlive = (millis: number) => Effect.sleep(millis + 100)

/** Takes due tasks until those of the prefix have all come, or the time is over. */
const dueOf = (store: Store, prefix: string, lease = minute) =>
  Effect.map(store.due(1_000, lease), ({ tasks }) => tasks.filter(({ id }) => id.startsWith(prefix)))

/**
 * Registers the suite that every `TaskStore.Store` passes, by vitest's `describe`: one attempt at a time under growing tokens,
 * one end for each task, uniqueness together with the insertion, due times by the store's clock, and events.
 *
 * The layer is built once for each test, on the machine's clock. The store may hold tasks of other runs.
 *
 * **Example** (your own store)
 *
 * ```ts
 * import { TaskStore } from "@millrace/core"
 * import { TaskStoreContract } from "@millrace/testing"
 *
 * export const register = () => TaskStoreContract.suite("memory", TaskStore.layerMemory())
 * ```
 */
export const suite = <E>(name: string, layer: Layer.Layer<TaskStore.Store, E>, options: Options = {}): void => {
  const test = <A, F>(title: string, body: (store: Store, id: string) => Effect.Effect<A, F, Scope.Scope>) =>
    it.live(
      title,
      () =>
        Effect.flatMap(unique, (id) => Effect.flatMap(TaskStore.Store, (store) => body(store, id))).pipe(
          Effect.scoped,
          Effect.provide(layer)
        )
    )

  describe(`task store: ${name}`, () => {
    test(
      "X11 a task is stored once for each id, and another payload under its id is a mismatch",
      (store, id) =>
        Effect.gen(function*() {
          const task = make(id, { digest: "d", metadata: { customer: "é 😀" }, key: "k" })
          assert.deepStrictEqual(yield* store.insert(task), { _tag: "Inserted" })
          assert.deepStrictEqual(yield* store.insert(task), { _tag: "Joined", id })
          assert.deepStrictEqual(yield* store.insert({ ...task, digest: "other" }), { _tag: "Mismatch" })
          const record = yield* read(store, id)
          assert.strictEqual(record.state, "pending")
          assert.deepStrictEqual(record.metadata, { customer: "é 😀" })
          assert.isBelow(Math.abs(record.createdAt - (yield* Clock.currentTimeMillis)), 5_000)
          assert.strictEqual(yield* store.read(`${id}-none`), undefined)
        })
    )

    test(
      "X11 an attempt is the only one under its lease, and its end is the result",
      (store, id) =>
        Effect.gen(function*() {
          yield* store.insert(make(id))
          const first = held(yield* begin(store, id))
          assert.strictEqual(first.attempt, 1)
          const second = yield* begin(store, id)
          assert(second._tag === "Running")
          assert.isTrue(second.left > minute - 10_000 && second.left <= minute, `${second.left} ms are left`)
          assert.isTrue(yield* store.end(first, { _tag: "Succeeded", result: "{\"a\":\"😀\"}" }))
          const record = yield* read(store, id)
          assert.strictEqual(record.state, "succeeded")
          assert.strictEqual(record.result, "{\"a\":\"😀\"}")
          assert.deepStrictEqual(record.attempts.map(({ ending, number, worker }) => ({ ending, number, worker })), [
            { ending: "succeeded", number: 1, worker: "w" }
          ])
          assert.isAtLeast(record.attempts[0]!.endedAt!, record.attempts[0]!.startedAt)
          assert.deepStrictEqual(yield* begin(store, id), { _tag: "Ended", state: "succeeded" })
          assert.strictEqual((yield* begin(store, `${id}-none`))._tag, "Missing")
        })
    )

    test(
      "X11 a late owner changes nothing after another attempt has taken over",
      (store, id) =>
        Effect.gen(function*() {
          yield* store.insert(make(id))
          const first = held(yield* begin(store, id, { lease: 200 }))
          yield* outlive(200)
          const second = held(yield* begin(store, id))
          assert.isAbove(second.token, first.token)
          assert.strictEqual(yield* store.extend(first, minute), "lost")
          assert.isFalse(yield* store.end(first, { _tag: "Failed", problem }))
          assert.isTrue(yield* store.end(second, { _tag: "Succeeded", result: "2" }))
          assert.isFalse(yield* store.end(first, { _tag: "Succeeded", result: "1" }))
          const record = yield* read(store, id)
          assert.strictEqual(record.result, "2")
          assert.deepStrictEqual(record.attempts.map(({ ending }) => ending), ["lost", "succeeded"])
        })
    )

    test(
      "X11 a failed attempt sets no result, and the ledger lists each attempt with its error",
      (store, id) =>
        Effect.gen(function*() {
          yield* store.insert(make(id))
          yield* store.end(held(yield* begin(store, id)), { _tag: "Retry", problem })
          const between = yield* read(store, id)
          assert.strictEqual(between.state, "retrying")
          assert.strictEqual(between.result, undefined)
          assert.strictEqual(between.problem, undefined)
          yield* store.end(held(yield* begin(store, id)), { _tag: "Released" })
          yield* store.end(held(yield* begin(store, id)), { _tag: "Failed", problem, error: "{}" })
          const record = yield* read(store, id)
          assert.strictEqual(record.state, "failed")
          assert.deepStrictEqual(record.problem, problem)
          assert.deepStrictEqual(record.attempts.map(({ ending, error }) => [ending, error?.tag]), [
            ["failed", "Broken"],
            ["released", undefined],
            ["failed", "Broken"]
          ])
          assert.strictEqual(record.begun, 2)
        })
    )

    test("X11 a task that never ends its attempts fails after the last one", (store, id) =>
      Effect.gen(function*() {
        yield* store.insert(make(id))
        for (const _ of [1, 2]) {
          held(yield* begin(store, id, { lease: 1, attempts: 2 }))
          yield* outlive(1)
        }
        assert.deepStrictEqual(yield* begin(store, id, { attempts: 2 }), { _tag: "Exhausted", attempts: 2 })
        const record = yield* read(store, id)
        assert.strictEqual(record.problem?.tag, "AttemptsExhausted")
        assert.isTrue(yield* store.restart(id))
        assert.deepStrictEqual((yield* dueOf(store, id)).map(({ id }) => id), [id])
        const again = held(yield* begin(store, id, { attempts: 2 }))
        assert.isTrue(yield* store.end(again, { _tag: "Succeeded", result: "1" }))
        assert.isFalse(yield* store.restart(id))
      }))

    test("X11 a lease that is extended stays, and carries the progress", (store, id) =>
      Effect.gen(function*() {
        yield* store.insert(make(id))
        const own = held(yield* begin(store, id, { lease: 1_000 }))
        for (const each of [1, 2, 3]) {
          yield* Effect.sleep(500)
          assert.strictEqual(yield* store.extend(own, 1_000, `{"at":${each}}`), "held")
        }
        assert.strictEqual((yield* begin(store, id))._tag, "Running")
        const record = yield* read(store, id)
        assert.strictEqual(record.progress, "{\"at\":3}")
        assert.strictEqual(record.progressNumber, 3)
        assert.isTrue(yield* store.end(own, { _tag: "Succeeded", result: "1" }))
      }))

    test(
      "X11 a task is cancelled at once before it begins, and by its worker while it runs",
      (store, id) =>
        Effect.gen(function*() {
          yield* store.insert(make(`${id}-1`))
          assert.strictEqual(yield* store.cancel(`${id}-1`), "cancelled")
          assert.deepStrictEqual(yield* begin(store, `${id}-1`), { _tag: "Ended", state: "cancelled" })
          yield* store.insert(make(`${id}-2`))
          const own = held(yield* begin(store, `${id}-2`))
          assert.strictEqual(yield* store.cancel(`${id}-2`), "requested")
          assert.strictEqual(yield* store.extend(own, minute), "cancelling")
          assert.isTrue(yield* store.end(own, { _tag: "Cancelled" }))
          assert.strictEqual((yield* store.read(`${id}-2`))?.state, "cancelled")
          yield* store.insert(make(`${id}-3`))
          yield* store.end(held(yield* begin(store, `${id}-3`)), { _tag: "Succeeded", result: "1" })
          assert.strictEqual(yield* store.cancel(`${id}-3`), "ended")
          assert.strictEqual(yield* store.cancel(`${id}-4`), "missing")
        })
    )

    test("X11 a cancelled task whose worker has died is not run again", (store, id) =>
      Effect.gen(function*() {
        yield* store.insert(make(id))
        held(yield* begin(store, id, { lease: 1 }))
        yield* store.cancel(id)
        yield* outlive(1)
        assert.deepStrictEqual(yield* begin(store, id), { _tag: "Ended", state: "cancelled" })
      }))

    test(
      "X11 a unique key has one holder: until the begin, until the end, or for a time",
      (store, id) =>
        Effect.gen(function*() {
          const key = `key ${id}`
          const insert = (name: string, unique: TaskStore.NewTask["unique"]) =>
            store.insert(make(`${id}-${name}`, { unique, queue: "q" }))
          assert.strictEqual((yield* insert("a", { key, while: "pending", millis: undefined }))._tag, "Inserted")
          assert.deepStrictEqual(yield* insert("b", { key, while: "pending", millis: undefined }), {
            _tag: "Joined",
            id: `${id}-a`
          })
          const a = held(yield* begin(store, `${id}-a`))
          assert.strictEqual((yield* insert("c", { key, while: "running", millis: undefined }))._tag, "Inserted")
          // the end of an earlier holder releases nothing of a later one
          yield* store.end(a, { _tag: "Succeeded", result: "1" })
          const c = held(yield* begin(store, `${id}-c`))
          assert.deepStrictEqual(yield* insert("d", { key, while: "running", millis: undefined }), {
            _tag: "Joined",
            id: `${id}-c`
          })
          yield* store.end(c, { _tag: "Failed", problem })
          assert.strictEqual((yield* insert("e", { key, while: "time", millis: 400 }))._tag, "Inserted")
          yield* store.end(held(yield* begin(store, `${id}-e`)), { _tag: "Succeeded", result: "1" })
          assert.deepStrictEqual(yield* insert("f", { key, while: "running", millis: undefined }), {
            _tag: "Joined",
            id: `${id}-e`
          })
          yield* outlive(400)
          assert.strictEqual((yield* insert("f", { key, while: "running", millis: undefined }))._tag, "Inserted")
          yield* store.cancel(`${id}-f`)
          assert.strictEqual((yield* insert("g", { key, while: "running", millis: undefined }))._tag, "Inserted")
          assert.isTrue(yield* store.forget(`${id}-g`))
          assert.strictEqual((yield* insert("h", { key, while: "running", millis: undefined }))._tag, "Inserted")
        })
    )

    test(
      "X11 of many insertions at once one gets the unique key, and one begins each task",
      (store, id) =>
        Effect.gen(function*() {
          const all = yield* Effect.all(
            Array.from({ length: 200 }, (_, i) =>
              store.insert(
                make(`${id}-${i}`, {
                  queue: "q",
                  unique: { key: `${id} ${i % 10}`, while: "running", millis: undefined }
                })
              )),
            { concurrency: "unbounded" }
          )
          const inserted = all.flatMap(({ _tag }, i) => _tag === "Inserted" ? [`${id}-${i}`] : [])
          assert.strictEqual(inserted.length, 10)
          const begun = yield* Effect.all(
            Array.from({ length: 100 }, (_, i) => begin(store, inserted[i % 10]!)),
            { concurrency: "unbounded" }
          )
          assert.strictEqual(begun.filter(({ _tag }) => _tag === "Begun").length, 10)
          assert.strictEqual(begun.filter(({ _tag }) => _tag === "Running").length, 90)
          const ends = yield* Effect.all(
            begun.flatMap((each, i) =>
              each._tag === "Begun" ? [store.end(each.held, { _tag: "Succeeded", result: String(i) })] : []
            ),
            { concurrency: "unbounded" }
          )
          assert.isTrue(ends.every((isEnded) => isEnded))
        })
    )

    test(
      "X11 a due task is taken once, again after its lease, and not once it is published",
      (store, id) =>
        Effect.gen(function*() {
          yield* store.insert(make(`${id}-now`, { due: { after: 0 }, key: "k" }))
          yield* store.insert(make(`${id}-at`, { due: { at: (yield* Clock.currentTimeMillis) - 1_000 } }))
          yield* store.insert(make(`${id}-later`, { due: { after: 600 } }))
          const taken = yield* Effect.all([dueOf(store, id, 1_500), dueOf(store, id, 1_500)], { concurrency: 2 })
          assert.sameMembers(taken.flat().map(({ id }) => id), [`${id}-now`, `${id}-at`])
          const now = taken.flat().find((task) => task.id === `${id}-now`)
          assert.deepStrictEqual(Array.from(now!.payload), [0, 1, 255])
          assert.deepStrictEqual({ task: now!.task, key: now!.key, headers: now!.headers }, {
            task: "resize",
            key: "k",
            headers: { "correlation-id": "c" }
          })
          assert.deepStrictEqual(yield* dueOf(store, id, 1_500), [])
          yield* store.published(`${id}-now`)
          yield* outlive(600)
          assert.deepStrictEqual((yield* dueOf(store, id)).map(({ id }) => id), [`${id}-later`])
          yield* outlive(1_500)
          assert.deepStrictEqual((yield* dueOf(store, id)).map(({ id }) => id), [`${id}-at`])
        })
    )

    test("X11 a task that has begun or ended is not due", (store, id) =>
      Effect.gen(function*() {
        for (const each of ["a", "b"]) yield* store.insert(make(`${id}-${each}`, { due: { after: 0 } }))
        held(yield* begin(store, `${id}-a`))
        yield* store.cancel(`${id}-b`)
        assert.deepStrictEqual(yield* dueOf(store, id), [])
      }))

    test("X11 a task expires if its first attempt begins too late", (store, id) =>
      Effect.gen(function*() {
        yield* store.insert(make(id, { expires: 100 }))
        yield* outlive(100)
        assert.deepStrictEqual(yield* begin(store, id), { _tag: "Ended", state: "expired" })
        assert.strictEqual((yield* store.read(id))?.state, "expired")
      }))

    test("X11 a record is kept for its time after the end, and no longer", (store, id) =>
      Effect.gen(function*() {
        yield* store.insert(make(id, { keep: 800, digest: "a" }))
        const own = held(yield* begin(store, id))
        yield* outlive(800)
        yield* store.end(own, { _tag: "Succeeded", result: "1" })
        assert.strictEqual((yield* store.read(id))?.result, "1")
        yield* outlive(800)
        assert.strictEqual(yield* store.read(id), undefined)
        assert.strictEqual((yield* store.insert(make(id, { digest: "b" })))._tag, "Inserted")
      }))

    test("X11 tasks are found by name, state and metadata, page by page", (store, id) =>
      Effect.gen(function*() {
        const queue = `find ${id}`
        for (const i of [1, 2, 3, 4]) {
          yield* store.insert(
            make(`${id}-${i}`, { queue, task: i === 4 ? "other" : "resize", metadata: { part: String(i % 2) } })
          )
        }
        yield* store.end(held(yield* begin(store, `${id}-1`)), { _tag: "Succeeded", result: "1" })
        const ids = (query: Omit<TaskStore.Query, "queue" | "limit"> & { readonly limit?: number }) =>
          Effect.map(store.find({ queue, limit: 10, ...query }), (records) => records.map(({ id }) => id.slice(-1)))
        assert.deepStrictEqual(yield* ids({}), ["1", "2", "3", "4"])
        assert.deepStrictEqual(yield* ids({ metadata: { part: "1" } }), ["1", "3"])
        assert.deepStrictEqual(yield* ids({ metadata: { part: "1" }, states: ["pending"] }), ["3"])
        assert.deepStrictEqual(yield* ids({ task: "other" }), ["4"])
        assert.deepStrictEqual(yield* ids({ limit: 2 }), ["1", "2"])
        assert.deepStrictEqual(yield* ids({ after: `${id}-2` }), ["3", "4"])
      }))

    test("X11 the end of a task is told to its watchers", (store, id) =>
      Effect.gen(function*() {
        yield* store.insert(make(id))
        const own = held(yield* begin(store, id))
        const told = yield* Deferred.make<void>()
        const leave = store.watch(id, () => Deferred.doneUnsafe(told, Exit.void))
        yield* store.end(own, { _tag: "Succeeded", result: "1" })
        yield* Effect.timeout(Deferred.await(told), "5 seconds")
        leave()
      }))

    it.live(`X11 another build of the layer ${options.reopened ?? "forgets"} the tasks of this one`, () =>
      Effect.gen(function*() {
        const id = yield* unique
        const open = Effect.gen(function*() {
          const scope = yield* Scope.make()
          const context = yield* Layer.buildWithScope(Layer.fresh(layer), scope)
          return { scope, context }
        })
        const use = <A, F>(body: (store: Store) => Effect.Effect<A, F>) =>
          Effect.flatMap(open, ({ context, scope }) =>
            Effect.flatMap(TaskStore.Store, body).pipe(
              Effect.provideContext(context),
              Effect.ensuring(Scope.close(scope, Exit.void))
            ))
        yield* use((store) => store.insert(make(id)))
        const own = yield* use((store) => begin(store, id))
        if (options.reopened !== "keeps") {
          assert.strictEqual(own._tag, "Missing")
          return
        }
        yield* use((store) => store.end(held(own), { _tag: "Succeeded", result: "7" }))
        assert.strictEqual((yield* use((store) => store.read(id)))?.result, "7")
        if ((yield* use((store) => Effect.succeed(store.isTold))) === false) return
        // an event of one process reaches the other
        const [one, two] = [yield* open, yield* open]
        const of = (context: typeof one.context) => Effect.provideContext(TaskStore.Store, context)
        const told = yield* Deferred.make<void>()
        const other = `${id}-other`
        ;(yield* of(two.context)).watch(other, () => Deferred.doneUnsafe(told, Exit.void))
        const store = yield* of(one.context)
        yield* store.insert(make(other))
        yield* store.end(held(yield* begin(store, other)), { _tag: "Succeeded", result: "1" })
        yield* Effect.timeout(Deferred.await(told), "5 seconds")
        for (const { scope } of [one, two]) yield* Scope.close(scope, Exit.void)
      }))
  })
}
