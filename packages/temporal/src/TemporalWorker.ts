/**
 * A worker of Temporal whose activities are Millrace's: handlers with every middleware around them.
 */
import { ApplicationFailure, defaultPayloadConverter } from "@temporalio/client"
import { Failure, OptionCheck } from "@millrace/core"
import type { Activity } from "@millrace/workflow"
import { type Config, Data, Duration, Effect, Fiber, Layer } from "effect"
import { fileURLToPath } from "node:url"
import * as Memo from "./internal/memo.ts"
import { connectionConfig, connectionOf, type ConnectionOptions, defaults as connectionDefaults } from "./Temporal.ts"

/** An activity of any types whose handler needs `R`. */
export type AnyActivity<R> = Activity.Activity<never, unknown, unknown, R>

/** Options of `layer`. */
export interface Options<A> extends ConnectionOptions {
  /** The task queue from which the worker takes work. */
  readonly taskQueue: string
  /**
   * The workflows' code, which runs in Temporal's sandbox: the path of a module, which is bundled at the start, or a bundle made
   * by `bundleWorkflowCode` with `interceptorsPath` among its interceptors. Default: none, the worker runs activities only.
   */
  readonly workflows?: { readonly path: string } | { readonly bundle: string } | undefined
  readonly activities?: ReadonlyArray<A> | undefined
  /** The most activities at once; an integer from 1. Default: 100. */
  readonly maximumActivities?: number | undefined
  /** The most workflows whose state is kept between their tasks; an integer from 0. Default: the worker's own, by memory. */
  readonly cachedWorkflows?: number | undefined
  /** How long running activities may go on when the worker stops; from 0. Default: 10 seconds. */
  readonly drain?: Duration.Input | undefined
}

/** The defaults of `layer`. */
export const defaults: { readonly maximumActivities: number; readonly drain: Duration.Duration } = {
  maximumActivities: 100,
  drain: Duration.seconds(10)
}

/** The worker cannot start, or has ended: the message says why. */
export class TemporalWorkerError extends Data.TaggedError("TemporalWorkerError")<{
  readonly message: string
  readonly cause: unknown
}> {}

/** The module of interceptors that a bundle of workflows must hold, for `bundleWorkflowCode`. */
export const interceptorsPath: string = fileURLToPath(
  // the same file before and after the build
  new URL(`./internal/interceptors${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url)
)

const check = OptionCheck.make("TemporalWorker")

const failed = (what: string) => (cause: unknown) =>
  new TemporalWorkerError({ message: `${what}: ${cause instanceof Error ? cause.message : String(cause)}`, cause })

/** The parts of an activity's context that a call needs. */
interface Info {
  readonly workflowType?: string | undefined
  readonly workflowExecution?: { readonly workflowId: string } | undefined
  readonly activityId: string
  readonly activityType: string
  readonly attempt: number
}

/** A call, as the interceptor passes it to the activity. */
interface Passed {
  readonly payload: unknown
  readonly headers: { readonly [name: string]: string }
  readonly info: Info
  readonly signal: AbortSignal
}

const messageOf = (cause: unknown) => Failure.messageOf(cause) || String(cause)

const answerOf = (end: Activity.Attempt): unknown => {
  switch (end._tag) {
    case "Done":
      return JSON.parse(end.value)
    case "Failed":
      throw ApplicationFailure.create({
        message: end.message,
        type: end.type,
        nonRetryable: true,
        details: [JSON.parse(end.error)]
      })
    case "Dead":
      throw ApplicationFailure.create({
        message: messageOf(end.cause),
        type: Failure.tagOf(end.cause),
        nonRetryable: true
      })
    case "Retry":
      throw ApplicationFailure.create({
        message: messageOf(end.cause),
        type: Failure.tagOf(end.cause),
        nonRetryable: false,
        ...(end.after === undefined ? {} : { nextRetryDelay: Duration.toMillis(end.after) })
      })
  }
}

type NeedsOf<A> = A extends
  { readonly attempt: (call: Activity.Call) => Effect.Effect<Activity.Attempt, never, infer R> } ? R
  : never

/**
 * Runs a worker until the layer closes; then it takes no more work, and running activities may go on for `drain`.
 *
 * Needs the packages `@temporalio/worker` and `@temporalio/workflow`. An activity gets the correlation, causation, principal and trace
 * context of the message that started the workflow as headers of its message. Temporal retries it by the retry policy in the
 * workflow's code: an error of the activity's schema and a lasting one are not retried, the `retryAfter` of any other is kept.
 *
 * Fails with `TemporalWorkerError`: a package is missing, the server is unreachable, the code of the workflows cannot be bundled.
 * A worker that ends later by itself is a defect of the layer's fiber, and is logged.
 *
 * @throws RangeError when an option is out of range, or two activities have one name
 * @category layers
 */
export const layer = <A extends AnyActivity<never> | AnyActivity<unknown>>(
  options: Options<A>
): Layer.Layer<never, TemporalWorkerError, NeedsOf<A>> => {
  const maximum = check.count("maximumActivities", options.maximumActivities ?? defaults.maximumActivities)
  const cached = options.cachedWorkflows === undefined
    ? undefined
    : check.count("cachedWorkflows", options.cachedWorkflows, { least: 0 })
  const drain = check.millis("drain", options.drain ?? defaults.drain, { least: 0, most: OptionCheck.longestTimer })
  const activities = options.activities ?? []
  const names = activities.map(({ name }) => name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) {
    throw new RangeError(`TemporalWorker: activities must have names of their own, got ${twice} twice`)
  }

  const run = Effect.gen(function*() {
    const services = yield* Effect.context<NeedsOf<A>>()
    const { NativeConnection, Worker } = yield* Effect.tryPromise({
      try: () => import("@temporalio/worker"),
      catch: failed("TemporalWorker needs the packages @temporalio/worker and @temporalio/workflow: install them")
    })

    const implementations: Record<string, (passed: Passed) => Promise<unknown>> = {}
    for (const activity of activities) {
      // `NeedsOf` is the needs of all activities
      const attempt = activity.attempt as (call: Activity.Call) => Effect.Effect<Activity.Attempt, never, NeedsOf<A>>
      implementations[activity.name] = async ({ headers, info, payload, signal }) =>
        answerOf(
          await Effect.runPromiseWith(services)(
            attempt({
              workflow: info.workflowType ?? "",
              execution: info.workflowExecution?.workflowId ?? "",
              step: `${info.activityType}#${info.activityId}`,
              headers,
              payload: JSON.stringify(payload) ?? "null",
              attempt: info.attempt
            }),
            { signal }
          )
        )
    }

    const { address, apiKey, tls } = connectionOf(options)
    const connection = yield* Effect.acquireRelease(
      Effect.tryPromise({
        try: () => NativeConnection.connect({ address, tls, ...(apiKey === undefined ? {} : { apiKey }) }),
        catch: failed(`TemporalWorker cannot connect to Temporal at ${address}: check the address, TLS and the server`)
      }),
      (connection) => Effect.promise(() => connection.close().catch(() => undefined))
    )
    const { workflows } = options
    const worker = yield* Effect.tryPromise({
      try: () =>
        Worker.create({
          connection,
          namespace: options.namespace ?? connectionDefaults.namespace,
          taskQueue: options.taskQueue,
          activities: implementations,
          maxConcurrentActivityTaskExecutions: maximum,
          shutdownGraceTime: drain,
          ...(cached === undefined ? {} : { maxCachedWorkflows: cached }),
          ...(options.identity === undefined ? {} : { identity: options.identity }),
          ...(workflows === undefined
            ? {}
            : "path" in workflows
            ? { workflowsPath: workflows.path }
            : { workflowBundle: { codePath: workflows.bundle } }),
          interceptors: {
            ...(workflows === undefined || "bundle" in workflows ? {} : { workflowModules: [interceptorsPath] }),
            activity: [(context) => ({
              inbound: {
                execute: (input, next) => {
                  const header = input.headers[Memo.name]
                  const passed: Passed = {
                    payload: input.args[0],
                    headers: header === undefined ? {} : defaultPayloadConverter.fromPayload(header),
                    info: context.info,
                    signal: context.cancellationSignal
                  }
                  return next({ ...input, args: [passed] })
                }
              }
            })]
          }
        }),
      catch: failed("TemporalWorker cannot start")
    })
    const running = yield* Effect.forkScoped(
      Effect.onError(
        Effect.tryPromise({ try: () => worker.run(), catch: failed("The worker of Temporal has ended") }),
        (cause) => Effect.logError("TemporalWorker", cause)
      )
    )
    return { worker, running }
  })

  return Layer.effectDiscard(
    Effect.acquireRelease(run, ({ running, worker }) =>
      Effect.suspend(() => {
        if (worker.getState() === "RUNNING") worker.shutdown()
        return Effect.exit(Fiber.await(running))
      }))
  )
}

/**
 * As `layer`, with the connection from the environment, see `Temporal.connectionConfig`. `options` override it.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = <A extends AnyActivity<never> | AnyActivity<unknown>>(
  options: Options<A>
): Layer.Layer<never, TemporalWorkerError | Config.ConfigError, NeedsOf<A>> =>
  Layer.unwrap(Effect.map(connectionConfig, (connection) => layer({ ...connection, ...options })))
