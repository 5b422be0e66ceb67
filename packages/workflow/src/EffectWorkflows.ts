/**
 * The engines of Effect: in the memory of the process, on PostgreSQL in one process, and in a cluster.
 */
import { Detached } from "@millrace/core"
import { Cause, type Config, Effect, Exit, Layer, Option } from "effect"
import type { SqlClient } from "effect/sql"
import { createHash } from "node:crypto"
import { Current as Execution } from "./Execution.ts"
import * as Json from "./internal/json.ts"
import * as Unstable from "./internal/unstable.ts"
import {
  type Accepted,
  type Closed,
  Service,
  type Status,
  type Target,
  WorkflowMissing,
  WorkflowRefused,
  WorkflowUnavailable
} from "./WorkflowStarter.ts"
import type { WorkflowType } from "./WorkflowType.ts"

/** A workflow and its code. */
export interface Implementation<out R> {
  readonly name: string
  readonly body: Unstable.Body<R>
}

type NeedsOf<I> = I extends Implementation<infer R> ? R : never

const unreadable = (workflow: string, what: string) => (issue: string) =>
  new TypeError(`EffectWorkflows: the ${what} of ${workflow} is not one of its schema: ${issue}`)

/**
 * Gives a workflow its code, for the engines of this module.
 *
 * The code runs again from its start after each suspension and each death of its process: results of activities, signals and sleeps
 * are recorded, and everything else must not have effects. Activities, `Execution.signal` and `Execution.sleep` need
 * `Execution.Current`, which the engine provides.
 *
 * **Example** (a workflow of one activity and one signal)
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Activity, EffectWorkflows, Execution, WorkflowType } from "@millrace/workflow"
 *
 * const Fulfil = WorkflowType.make("FulfilOrder", { payload: Schema.String, success: Schema.String })
 * const pack = Activity.make(
 *   "pack",
 *   { payload: Schema.String, success: Schema.String },
 *   (message) => Effect.succeed(`parcel of ${message.payload}`)
 * )
 *
 * const fulfil = EffectWorkflows.implement(Fulfil, (order) =>
 *   Effect.gen(function*() {
 *     const parcel = yield* pack.execute(order)
 *     const carrier = yield* Execution.signal("collected", Schema.String)
 *     return `${parcel} with ${carrier}`
 *   }))
 * ```
 *
 * @category constructors
 */
export const implement = <P, A, E, R>(
  workflow: WorkflowType<P, A, E>,
  body: (payload: P, execution: Execution["Service"]) => Effect.Effect<A, E, R>
): Implementation<Exclude<R, Execution>> => {
  const { name } = workflow
  const payloads = Json.codecOf(workflow.payload)
  const values = Json.codecOf(workflow.success)
  const errors = Json.codecOf(workflow.error)
  return {
    name,
    body: ({ headers, payload }, run) =>
      Effect.suspend(() => {
        const calls = new Map<string, number>()
        const execution: Execution["Service"] = {
          id: run.id,
          workflow: name,
          headers,
          step: (name, effect) =>
            Effect.suspend(() => {
              const call = (calls.get(name) ?? 0) + 1
              calls.set(name, call)
              const id = call === 1 ? name : `${name}#${call}`
              return run.step(id, effect(id))
            }),
          signal: run.signal,
          sleep: run.sleep
        }
        return Effect.flatMap(
          Effect.orDie(Effect.mapError(payloads.decode(payload), unreadable(name, "payload"))),
          (payload) =>
            Effect.matchEffect(
              Effect.provideService(Effect.suspend(() => body(payload, execution)), Execution, execution),
              {
                onSuccess: (value) => Effect.orDie(Effect.mapError(values.encode(value), unreadable(name, "result"))),
                onFailure: (error) =>
                  Effect.flatMap(
                    Effect.orDie(Effect.mapError(errors.encode(error), unreadable(name, "error"))),
                    (text) => Effect.fail(text)
                  )
              }
            )
        )
      })
  }
}

/** Remembers, for one engine, which executions were started. */
interface Known {
  readonly has: (target: Target) => Effect.Effect<boolean, WorkflowUnavailable>
  /** The message that started an execution, if the engine keeps it. */
  readonly startedBy: (target: Target) => string | undefined
  readonly starts: (target: Target, startedBy: string) => void
}

/** The first and the longest pause between two looks at an execution whose end is awaited, in milliseconds. */
const looks = { first: 10, last: 500 }

const starterOf = (
  engine: Unstable.WorkflowEngine.WorkflowEngine["Service"],
  names: ReadonlyArray<string>,
  known: Known,
  idOf: (execution: string) => string,
  guard: <A>(call: Effect.Effect<A>) => Effect.Effect<A, WorkflowUnavailable>
): Service["Service"] => {
  const registered = new Map(names.map((name) => [name, new Unstable.Registered(engine, name)]))

  const within = <A, E>(
    target: Target,
    call: (workflow: Unstable.Registered, id: string) => Effect.Effect<A, E>
  ): Effect.Effect<A, E | WorkflowRefused> => {
    const workflow = registered.get(target.workflow)
    return workflow === undefined
      ? Exit.fail(
        new WorkflowRefused({
          reason: "workflow",
          message:
            `No workflow ${target.workflow} is registered: give its implementation to the layer of EffectWorkflows`
        })
      )
      : call(workflow, idOf(target.execution))
  }

  const status = (target: Target): Effect.Effect<Status, WorkflowUnavailable | WorkflowRefused> =>
    within(target, (workflow, id) =>
      Effect.flatMapEager(
        known.has(target),
        (isKnown): Effect.Effect<Status, WorkflowUnavailable> =>
          isKnown ? guard(workflow.status(id)) : Exit.succeed({ _tag: "Missing" })
      ))

  /** Calls for an execution that runs. */
  const running = (target: Target, call: (workflow: Unstable.Registered, id: string) => Effect.Effect<void>) =>
    Effect.flatMap(
      status(target),
      (found): Effect.Effect<void, WorkflowUnavailable | WorkflowRefused | WorkflowMissing> => {
        if (found._tag === "Missing") return Effect.fail(new WorkflowMissing(target))
        if (found._tag === "Running") return within(target, (workflow, id) => guard(call(workflow, id)))
        return Effect.fail(
          new WorkflowRefused({ reason: "closed", message: `The execution ${target.execution} has ended` })
        )
      }
    )

  const result = (
    target: Target,
    pause: number
  ): Effect.Effect<Closed, WorkflowUnavailable | WorkflowRefused | WorkflowMissing> =>
    Effect.flatMap(status(target), (found) => {
      if (found._tag === "Missing") return Effect.fail(new WorkflowMissing(target))
      if (found._tag !== "Running") return Effect.succeed(found)
      return Effect.flatMap(Effect.sleep(pause), () => result(target, Math.min(pause * 2, looks.last)))
    })

  return {
    start: (request) =>
      within(
        request,
        (workflow, id) =>
          Effect.flatMapEager(known.has(request), (isKnown): Effect.Effect<Accepted, WorkflowUnavailable> => {
            if (isKnown) {
              return Effect.map(guard(workflow.status(id)), (status) => ({
                _tag: "Exists",
                status,
                startedBy: known.startedBy(request)
              }))
            }
            known.starts(request, request.startedBy)
            // the run must not inherit the span and the correlation of the message, which ends before it
            const started = Detached.effect(Effect.orDie(workflow.execute(id, request.payload, request.headers)))
            return Effect.as(guard(started), { _tag: "Created" })
          })
      ),
    status,
    signal: (target, name, payload) => running(target, (workflow, id) => workflow.signal(id, name, payload)),
    cancel: (target) => running(target, (workflow, id) => workflow.interrupt(id)),
    terminate: (target) => running(target, (workflow, id) => workflow.interruptNow(id)),
    result: (target) => result(target, looks.first)
  }
}

const register = (
  engine: Unstable.WorkflowEngine.WorkflowEngine["Service"],
  implementations: ReadonlyArray<Implementation<unknown>>
) =>
  Effect.forEach(
    implementations,
    ({ body, name }) => new Unstable.Registered(engine, name).register(body),
    { discard: true }
  )

const namesOf = (implementations: ReadonlyArray<Implementation<unknown>>): ReadonlyArray<string> => {
  const names = implementations.map(({ name }) => name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice === undefined) return names
  throw new RangeError(`EffectWorkflows: implementations must have names of their own, got ${twice} twice`)
}

/**
 * Runs workflows in the memory of this process, for tests and development: a restart loses all executions, and the engine keeps
 * each execution until the layer closes.
 *
 * @throws RangeError when two implementations have one name
 * @category layers
 */
export const layerMemory = <I extends Implementation<unknown>>(
  ...implementations: ReadonlyArray<I>
): Layer.Layer<Service, never, NeedsOf<I>> => {
  const names = namesOf(implementations)
  const made = Effect.gen(function*() {
    const engine = yield* Unstable.WorkflowEngine.WorkflowEngine
    yield* register(engine, implementations)
    const started = new Map<string, string>()
    return starterOf(
      engine,
      names,
      {
        has: ({ execution }) => Exit.succeed(started.has(execution)),
        startedBy: ({ execution }) => started.get(execution),
        starts: ({ execution }, by) => void started.set(execution, by)
      },
      (execution) => execution,
      (call) => call
    )
  })
  // the needs of the implementations
  return Layer.provide(Layer.effect(Service, made), Unstable.layerEngineMemory) as Layer.Layer<
    Service,
    never,
    NeedsOf<I>
  >
}

/** The longest id of an entity that a cluster's tables can hold. */
const longestEntity = 255

const entityOf = (execution: string): string =>
  execution.length <= longestEntity
    ? execution
    : `sha256/${createHash("sha256").update(execution).digest("base64url")}`

const unavailable = (cause: unknown) =>
  new WorkflowUnavailable({
    failure: "dependency",
    message:
      "The storage of the cluster is unavailable: check its database and its connections; the message is redelivered",
    cause
  })

/** Milliseconds after which a call of a cluster counts as unavailable. */
const patience = 10_000

const guarded = <A>(call: Effect.Effect<A>): Effect.Effect<A, WorkflowUnavailable> =>
  Effect.flatMap(
    Effect.timeoutOption(
      Effect.catchCause(call, (cause) => {
        const defect = Cause.squash(cause)
        return Unstable.isOutage(defect) ? Effect.fail(unavailable(defect)) : Effect.failCause(cause)
      }),
      patience
    ),
    (answer) =>
      Option.isSome(answer) ? Effect.succeed(answer.value) : Effect.fail(unavailable("no answer in 10 seconds"))
  )

/**
 * Runs workflows in an Effect Cluster of the program's own, in any number of processes: each of them has this layer.
 *
 * @throws RangeError when two implementations have one name
 * @category layers
 */
export const layerCluster = <I extends Implementation<unknown>>(
  ...implementations: ReadonlyArray<I>
): Layer.Layer<
  Service,
  never,
  NeedsOf<I> | Unstable.Sharding.Sharding | Unstable.MessageStorage.MessageStorage
> => {
  const names = namesOf(implementations)
  const made = Effect.gen(function*() {
    const engine = yield* Unstable.WorkflowEngine.WorkflowEngine
    const exists = Unstable.existsIn(
      yield* Unstable.Sharding.Sharding,
      yield* Unstable.MessageStorage.MessageStorage
    )
    yield* register(engine, implementations)
    return starterOf(
      engine,
      names,
      {
        has: ({ execution, workflow }) => guarded(Effect.orDie(exists(workflow, entityOf(execution)))),
        startedBy: () => undefined,
        starts: () => undefined
      },
      entityOf,
      guarded
    )
  })
  // the needs of the implementations
  return Layer.provide(Layer.effect(Service, made), Unstable.layerEngineCluster) as Layer.Layer<
    Service,
    never,
    NeedsOf<I> | Unstable.Sharding.Sharding | Unstable.MessageStorage.MessageStorage
  >
}

/**
 * Runs workflows in this process, with all state in the database of the program's `SqlClient`: PostgreSQL for production. After a
 * restart the executions go on where they were.
 *
 * The tables (`cluster_messages`, `cluster_replies`, `cluster_runners`, `cluster_locks`) are created if missing. Of several
 * processes on one database one runs the executions, and another one takes over some seconds after its end; use `layerCluster` to
 * share the load.
 *
 * Fails with `ConfigError` if an environment variable of Effect's sharding is not valid.
 *
 * @throws RangeError when two implementations have one name
 * @category layers
 */
export const layerSql = <I extends Implementation<unknown>>(
  ...implementations: ReadonlyArray<I>
): Layer.Layer<Service, Config.ConfigError, NeedsOf<I> | SqlClient.SqlClient> =>
  Layer.provide(layerCluster(...implementations), Unstable.layerRunner(undefined)) as Layer.Layer<
    Service,
    Config.ConfigError,
    NeedsOf<I> | SqlClient.SqlClient
  >
