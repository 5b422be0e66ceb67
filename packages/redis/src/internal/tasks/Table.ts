/**
 * The table of tasks in Redis: one script for each operation, and Pub/Sub for its events.
 */
import { type BrokerError, TaskStore } from "@millrace/core"
import { Cause, Effect, type Scope } from "effect"
import type * as Client from "../client/Client.ts"
import * as Scripts from "./Scripts.ts"

type Failed = BrokerError.BrokerError

/** Options of `make`. */
export interface Options {
  readonly prefix: string
  /** Retries a call whose failure may pass. */
  readonly retried: <A>(effect: Effect.Effect<A, Failed>) => Effect.Effect<A, Failed>
  readonly unavailable: (error: Failed) => TaskStore.TaskStoreUnavailable
}

const states: ReadonlySet<string> = new Set<TaskStore.State>([
  "pending",
  "running",
  "retrying",
  "succeeded",
  "failed",
  "cancelled",
  "expired"
])

const stateOf = (text: string): TaskStore.State => {
  if (!states.has(text)) throw new TypeError(`unknown state ${text}: a newer program has written the record`)
  return text as TaskStore.State
}

type Field = Buffer | null

/** Waits between two attempts to listen, in milliseconds. */
const pause = 500

/** Makes the table; listens for events until the scope closes. */
export const make = (
  connection: Client.Client,
  { prefix, retried, unavailable }: Options
): Effect.Effect<TaskStore.Table, never, Scope.Scope> =>
  Effect.gen(function*() {
    const tag = `{${prefix}}`
    const rows = `${tag}:t:`
    const rowOf = (id: string) => rows + id
    const indexOf = (queue: string) => `${tag}:q:${queue}`
    const orderOf = (queue: string) => `${tag}:i:${queue}`
    const uniqueOf = (key: string) => `${tag}:u:${key}`
    const due = `${tag}:due`
    const events = `${tag}:events`
    const watchers = new TaskStore.Watchers()

    const run = <A>(script: Client.Script, keys: ReadonlyArray<string>, args: ReadonlyArray<Client.Argument>) =>
      Effect.mapError(
        // each script answers what its comment says
        retried(connection.attempt("check", () => connection.run(script, keys, args) as Promise<A>)),
        unavailable
      )

    const listen = Effect.scoped(Effect.gen(function*() {
      const own = yield* connection.separate(events)
      own.client.on("messageBuffer", (_channel: Buffer, id: Buffer) => watchers.tell(id.toString()))
      yield* own.attempt("consume", () => own.client.subscribe(events))
      // events of the time without a connection are lost
      watchers.tellAll()
      const beat = Effect.forever(
        Effect.andThen(
          Effect.sleep(connection.resolved.requestTimeout),
          own.attempt("check", () => own.client.ping())
        )
      )
      return yield* Effect.raceFirst(own.ended("consume"), beat)
    }))
    yield* Effect.forkScoped(
      Effect.forever(
        Effect.catchCause(
          listen,
          (cause) => Cause.hasInterruptsOnly(cause) ? Effect.interrupt : Effect.sleep(pause)
        )
      )
    )

    return {
      insert: ({ content, due: at, id, payload, queue, unique }) =>
        Effect.map(
          run<number | Buffer>(
            Scripts.insert,
            [
              rowOf(id),
              due,
              indexOf(queue),
              orderOf(queue),
              ...(unique === undefined ? [] : [uniqueOf(unique.key)])
            ],
            [
              id,
              queue,
              content,
              Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength),
              at === undefined ? "never" : "at" in at ? "at" : "after",
              at === undefined ? 0 : Math.ceil("at" in at ? at.at : at.after),
              Math.ceil(unique?.millis ?? 0)
            ]
          ),
          (answer): TaskStore.Insertion =>
            answer === 1
              ? { _tag: "Inserted" }
              : answer === 0
              ? { _tag: "Exists" }
              : { _tag: "Held", id: answer.toString() }
        ),
      load: (id) =>
        Effect.map(
          run<[number, [Field, Field, Field, Field, Field]]>(Scripts.load, [rowOf(id)], []),
          ([now, [version, state, queue, createdAt, content]]) => ({
            now,
            row: version === null ? undefined : {
              id,
              version: Number(version),
              state: stateOf(String(state)),
              queue: String(queue),
              createdAt: Number(createdAt),
              content: String(content)
            }
          })
        ),
      save: ({ content, id, isDue = false, keep, queue, releases, state, tells, version }) =>
        Effect.map(
          run<number>(
            Scripts.save,
            [rowOf(id), due, indexOf(queue), events, ...(releases === undefined ? [] : [uniqueOf(releases)])],
            [id, version, state, content, isDue ? 1 : 0, keep === undefined ? "" : Math.ceil(keep), tells ? 1 : 0]
          ),
          (answer) => answer === 1
        ),
      published: (id) =>
        Effect.mapError(
          retried(Effect.asVoid(connection.attempt("check", () => connection.send(due, "ZREM", [due, id])))),
          unavailable
        ),
      due: (limit, lease) =>
        Effect.map(
          run<[number, ...ReadonlyArray<Buffer>]>(Scripts.due, [due], [limit, Math.ceil(lease), rows]),
          ([next, ...fields]) => ({
            next: next < 0 ? undefined : next,
            rows: Array.from({ length: fields.length / 4 }, (_, i): TaskStore.DueRow => ({
              id: String(fields[i * 4]),
              queue: String(fields[i * 4 + 1]),
              content: String(fields[i * 4 + 2]),
              payload: new Uint8Array(fields[i * 4 + 3]!)
            }))
          })
        ),
      scan: (queue, after, limit) => {
        const from = (after: string): Effect.Effect<ReadonlyArray<TaskStore.Row>, TaskStore.TaskStoreUnavailable> =>
          Effect.flatMap(
            run<ReadonlyArray<Field>>(Scripts.scan, [orderOf(queue)], [after === "" ? "-" : `(${after}`, limit, rows]),
            (fields) => {
              const found = Array.from({ length: fields.length / 5 }, (_, i) => fields.slice(i * 5, i * 5 + 5)).flatMap(
                ([id, version, state, createdAt, content]): ReadonlyArray<TaskStore.Row> =>
                  version === null || version === undefined ? [] : [{
                    id: String(id),
                    queue,
                    version: Number(version),
                    state: stateOf(String(state)),
                    createdAt: Number(createdAt),
                    content: String(content)
                  }]
              )
              const last = fields.at(-5)
              // a page of expired rows is no end
              return found.length === 0 && fields.length === limit * 5 ? from(String(last)) : Effect.succeed(found)
            }
          )
        return from(after)
      },
      remove: (id, queue, version, unique) =>
        Effect.map(
          run<number>(
            Scripts.remove,
            [
              rowOf(id),
              due,
              indexOf(queue),
              orderOf(queue),
              events,
              ...(unique === undefined ? [] : [uniqueOf(unique)])
            ],
            [id, version]
          ),
          (answer) => answer === 1
        ),
      watch: watchers.watch,
      isTold: true
    }
  })
