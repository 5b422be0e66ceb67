/**
 * The only file that imports Effect's unstable modules of workflows and clusters: adapts an engine of Effect to executions whose
 * payloads, results and errors are JSON texts.
 */
import { Cause, type Duration, Effect, Exit, Layer, Option, Schema } from "effect"
import {
  ClusterWorkflowEngine,
  EntityAddress,
  EntityId,
  EntityType,
  MessageStorage,
  Sharding,
  type ShardingConfig,
  SingleRunner
} from "effect/cluster"
import { Digest } from "effect/crypto"
import { Activity, DurableClock, DurableDeferred, Workflow, WorkflowEngine } from "effect/workflow"
import type { Closed, Status } from "../WorkflowStarter.ts"

export { MessageStorage, Sharding, WorkflowEngine }

const wire = {
  payload: { payload: Schema.String, headers: Schema.Record(Schema.String, Schema.String) },
  success: Schema.String,
  error: Schema.String
}

const workflowOf = (name: string) => Workflow.make(name, { ...wire, idempotencyKey: ({ payload }) => payload })

type Engine = WorkflowEngine.WorkflowEngine["Service"]
type Wire = ReturnType<typeof workflowOf>
type Inside = WorkflowEngine.WorkflowEngine | WorkflowEngine.WorkflowInstance

/** The steps of one run of a workflow's code; a replay is another run. */
export interface Run {
  readonly id: string
  readonly step: <R>(name: string, run: Effect.Effect<string, string, R>) => Effect.Effect<string, string, R>
  readonly signal: (name: string) => Effect.Effect<string>
  readonly sleep: (name: string, duration: Duration.Input) => Effect.Effect<void>
}

/** The code of a workflow. */
export type Body<R> = (
  payload: { readonly payload: string; readonly headers: { readonly [name: string]: string } },
  run: Run
) => Effect.Effect<string, string, R>

const deferredOf = (signal: string) => DurableDeferred.make(`signal/${signal}`, { success: Schema.String })

const closedOf = (exit: Exit.Exit<string, string>): Closed => {
  if (exit._tag === "Success") return { _tag: "Completed", value: exit.value }
  const failed = exit.cause.reasons.find(Cause.isFailReason)
  if (failed !== undefined) {
    return { _tag: "Failed", error: failed.error, message: "The workflow failed with its error" }
  }
  if (Cause.hasInterruptsOnly(exit.cause)) return { _tag: "Cancelled" }
  const defect = Cause.squash(exit.cause)
  return { _tag: "Failed", error: undefined, message: defect instanceof Error ? defect.message : String(defect) }
}

/** A workflow that is registered with an engine. */
export class Registered {
  private readonly engine: Engine
  private readonly workflow: Wire

  constructor(engine: Engine, name: string) {
    this.engine = engine
    this.workflow = workflowOf(name)
  }

  register<R>(body: Body<R>) {
    const run = (payload: Parameters<Body<R>>[0], id: string) =>
      Effect.flatMap(Effect.context<Inside>(), (inside) =>
        body(payload, {
          id,
          step: (name, effect) =>
            Effect.provideContext(
              Activity.make({ name, success: Schema.String, error: Schema.String, execute: effect }),
              inside
            ),
          signal: (name) => Effect.provideContext(DurableDeferred.await(deferredOf(name)), inside),
          sleep: (name, duration) => Effect.provideContext(DurableClock.sleep({ name, duration }), inside)
        }))
    return this.engine.register(this.workflow, run)
  }

  execute(id: string, payload: string, headers: { readonly [name: string]: string }): Effect.Effect<void, string> {
    return Effect.asVoid(
      this.engine.execute(this.workflow, { executionId: id, payload: { payload, headers }, discard: true })
    )
  }

  /** The state of an execution that exists. */
  status(id: string): Effect.Effect<Exclude<Status, { readonly _tag: "Missing" }>> {
    return Effect.map(
      // a run that ended by a defect outside of its code is reported as one
      Effect.exit(this.engine.poll(this.workflow, id)),
      (polled) => {
        if (polled._tag === "Failure") return closedOf(Exit.failCause(polled.cause))
        const found = Option.getOrUndefined(polled.value)
        return found?._tag === "Complete" ? closedOf(found.exit) : { _tag: "Running" }
      }
    )
  }

  signal(id: string, name: string, payload: string): Effect.Effect<void> {
    const deferred = deferredOf(name)
    return this.engine.deferredDone(deferred, {
      workflowName: this.workflow._tag,
      executionId: id,
      deferredName: deferred.name,
      exit: Exit.succeed(payload)
    })
  }

  interrupt(id: string): Effect.Effect<void> {
    return this.engine.interrupt(this.workflow, id)
  }

  interruptNow(id: string): Effect.Effect<void> {
    return this.engine.interruptUnsafe(this.workflow, id)
  }
}

/** Tells, for a cluster, whether an execution was started. */
export const existsIn =
  (sharding: Sharding.Sharding["Service"], storage: MessageStorage.MessageStorage["Service"]) =>
  (workflow: string, id: string): Effect.Effect<boolean, unknown> => {
    const entityId = EntityId.make(id)
    const address = EntityAddress.make({
      entityType: EntityType.make(`Workflow/${workflow}`),
      entityId,
      shardId: sharding.getShardId(entityId, "default")
    })
    return Effect.map(storage.requestIdForPrimaryKey({ address, tag: "run", id: "" }), Option.isSome)
  }

export const layerEngineMemory = WorkflowEngine.layerMemory

export const layerEngineCluster = ClusterWorkflowEngine.layer

/** One process that runs all executions of a database. */
export const layerRunner = (shardingConfig: Partial<ShardingConfig.ShardingConfig["Service"]> | undefined) =>
  Layer.provide(SingleRunner.layer({ shardingConfig, runnerStorage: "sql" }), Digest.layerWebCrypto)

const outages = new Set([
  "PersistenceError",
  "MailboxFull",
  "AlreadyProcessingMessage",
  "EntityNotAssignedToRunner",
  "RunnerUnavailable",
  "RunnerNotRegistered",
  "SqlError"
])

/** Tells whether a defect of a cluster means that its storage or its runners are unavailable. */
export const isOutage = (defect: unknown): boolean =>
  typeof defect === "object" && defect !== null && "_tag" in defect && outages.has(String(defect._tag))
