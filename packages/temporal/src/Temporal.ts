/**
 * Temporal as the engine of workflows, by its official client.
 */
import {
  ApplicationFailure,
  CancelledFailure,
  Client,
  Connection,
  defaultPayloadConverter,
  TerminatedFailure,
  type WorkflowClientInterceptor,
  WorkflowExecutionAlreadyStartedError,
  type WorkflowExecutionDescription,
  WorkflowFailedError,
  WorkflowNotFoundError
} from "@temporalio/client"
import { OptionCheck } from "@millrace/core"
import { WorkflowStarter } from "@millrace/workflow"
import { Config, Duration, Effect, Layer, Option, Redacted } from "effect"
import { failureOf, type Server } from "./internal/failures.ts"
import * as Memo from "./internal/memo.ts"

/** Certificates of a TLS connection, each in PEM. */
export interface Tls {
  /** The certificate authority of the server. Default: those of Node. */
  readonly ca?: string | undefined
  /** The certificate and the key of this client, for mutual TLS. */
  readonly certificate?: string | undefined
  readonly key?: Redacted.Redacted<string> | undefined
  /** The name in the server's certificate. Default: the host of the address. */
  readonly serverName?: string | undefined
}

/** The connection to a server, for clients and workers. */
export interface ConnectionOptions {
  /** `host:port`. Default: `127.0.0.1:7233`. */
  readonly address?: string | undefined
  /** Default: `default`. */
  readonly namespace?: string | undefined
  /** TLS, with or without certificates. Default: on with an API key, otherwise off. */
  readonly tls?: boolean | Tls | undefined
  /** The API key of Temporal Cloud. Default: none. */
  readonly apiKey?: Redacted.Redacted<string> | undefined
  /** The name of this process in the histories of executions. Default: process id and host name. */
  readonly identity?: string | undefined
}

/** Options of `layer`. */
export interface Options extends ConnectionOptions {
  /** The task queue on which workers take the executions. */
  readonly taskQueue: string
  /** The longest time of a call, from 1 ms; the broker redelivers after it. Default: 10 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** The defaults of `layer`. */
export const defaults: {
  readonly address: string
  readonly namespace: string
  readonly timeout: Duration.Duration
} = { address: "127.0.0.1:7233", namespace: "default", timeout: Duration.seconds(10) }

const check = OptionCheck.make("Temporal")

/** Turns options into those of Temporal's packages, for `Connection` and `NativeConnection`. */
export const connectionOf = (options: ConnectionOptions) => {
  const { apiKey, tls = apiKey !== undefined } = options
  return {
    address: options.address ?? defaults.address,
    tls: typeof tls === "boolean" ? (tls ? {} : null) : {
      ...(tls.ca === undefined ? {} : { serverRootCACertificate: Buffer.from(tls.ca) }),
      ...(tls.serverName === undefined ? {} : { serverNameOverride: tls.serverName }),
      ...(tls.certificate === undefined || tls.key === undefined
        ? {}
        : { clientCertPair: { crt: Buffer.from(tls.certificate), key: Buffer.from(Redacted.value(tls.key)) } })
    },
    ...(apiKey === undefined ? {} : { apiKey: Redacted.value(apiKey) })
  }
}

/** Sends the context of a start and of a signal as a header, which the interceptors of the worker pass to activities. */
const interceptor: WorkflowClientInterceptor = {
  start: (input, next) => {
    const kept = Memo.read(input.options.memo)
    return next(
      kept === undefined
        ? input
        : { ...input, headers: { ...input.headers, [Memo.name]: defaultPayloadConverter.toPayload(kept.headers) } }
    )
  }
}

const jsonOf = (value: unknown): string => JSON.stringify(value) ?? "null"

/** Reads the failure of an execution: an `ApplicationFailure` with one detail is an error of the workflow's schema. */
const failedOf = (error: WorkflowFailedError): WorkflowStarter.Closed => {
  let found: unknown = error.cause
  if (found instanceof CancelledFailure || found instanceof TerminatedFailure) return { _tag: "Cancelled" }
  const message = error.cause?.message ?? error.message
  while (found instanceof Error) {
    if (found instanceof ApplicationFailure) {
      const [detail] = found.details ?? []
      return { _tag: "Failed", error: detail === undefined ? undefined : jsonOf(detail), message: found.message }
    }
    found = found.cause
  }
  return { _tag: "Failed", error: undefined, message }
}

type Call<A, E = never> = Effect.Effect<A, WorkflowStarter.CallError | E>

const make = (
  client: Client,
  connection: Connection,
  taskQueue: string,
  timeout: number,
  server: Server
): WorkflowStarter.Service["Service"] => {
  const tried = <A>(call: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, unknown> =>
    // the SDK's errors have classes and no tag: `called` tells them apart
    // @effect-diagnostics-next-line unknownInEffectCatch:off
    Effect.tryPromise({
      try: (signal) => connection.withAbortSignal(signal, () => call(signal)),
      catch: (error) => error
    })

  /** Calls within the time limit; `found` handles the errors that are answers. */
  const called = <A, B, E>(
    call: () => Promise<A>,
    found: (error: unknown) => Effect.Effect<B, E> | undefined
  ): Call<A | B, E> =>
    Effect.catch(
      Effect.timeoutOrElse(tried(call), {
        duration: timeout,
        orElse: () =>
          Effect.fail<unknown>(
            new WorkflowStarter.WorkflowUnavailable({
              failure: "dependency",
              message: `Temporal at ${server.address} has not answered in time: check the address, TLS and the server`
            })
          )
      }),
      (error): Call<A | B, E> =>
        error instanceof WorkflowStarter.WorkflowUnavailable
          ? Effect.fail(error)
          : found(error) ?? Effect.fail(failureOf(server, error))
    )

  const missing = (target: WorkflowStarter.Target) => (error: unknown) =>
    error instanceof WorkflowNotFoundError ? Effect.fail(new WorkflowStarter.WorkflowMissing(target)) : undefined

  const handleOf = ({ execution }: WorkflowStarter.Target) => client.workflow.getHandle(execution)

  /** Waits for the end, without the time limit: the client asks by long polls. */
  const result = (target: WorkflowStarter.Target): Call<WorkflowStarter.Closed, WorkflowStarter.WorkflowMissing> =>
    Effect.catch(
      Effect.map(
        tried(() => handleOf(target).result()),
        (value): WorkflowStarter.Closed => ({ _tag: "Completed", value: jsonOf(value) })
      ),
      (error): Call<WorkflowStarter.Closed, WorkflowStarter.WorkflowMissing> =>
        error instanceof WorkflowFailedError
          ? Effect.succeed(failedOf(error))
          : missing(target)(error) ?? Effect.fail(failureOf(server, error))
    )

  const describe = (target: WorkflowStarter.Target): Call<WorkflowExecutionDescription | undefined> =>
    called(
      () => handleOf(target).describe(),
      (error) => error instanceof WorkflowNotFoundError ? Effect.succeed(undefined) : undefined
    )

  const statusOf = (
    target: WorkflowStarter.Target,
    found: WorkflowExecutionDescription | undefined
  ): Call<WorkflowStarter.Status> => {
    switch (found?.status.name) {
      case undefined:
        return Effect.succeed({ _tag: "Missing" })
      case "COMPLETED":
      case "FAILED":
      case "TIMED_OUT":
      case "CONTINUED_AS_NEW":
        return Effect.catch(
          Effect.timeoutOrElse(result(target), {
            duration: timeout,
            orElse: () => Effect.fail(failureOf(server, new Error("the result has not come in time")))
          }),
          (error): Call<WorkflowStarter.Status> =>
            // its retention ended meanwhile
            error._tag === "WorkflowMissing" ? Effect.succeed({ _tag: "Missing" }) : Effect.fail(error)
        )
      case "CANCELLED":
      case "TERMINATED":
        return Effect.succeed({ _tag: "Cancelled" })
      default:
        return Effect.succeed({ _tag: "Running" })
    }
  }

  const status = (target: WorkflowStarter.Target) =>
    Effect.flatMap(describe(target), (found) => statusOf(target, found))

  /** Calls for an execution that runs, and tells one that has ended from one that never was. */
  const running = (
    target: WorkflowStarter.Target,
    call: () => Promise<unknown>
  ): Call<void, WorkflowStarter.WorkflowMissing> =>
    Effect.asVoid(called(call, (error) =>
      error instanceof WorkflowNotFoundError
        ? Effect.flatMap(describe(target), (found) =>
          Effect.fail(
            found === undefined
              ? new WorkflowStarter.WorkflowMissing(target)
              : new WorkflowStarter.WorkflowRefused({
                reason: "closed",
                message: `The execution ${target.execution} has ended`
              })
          ))
        : undefined))

  return {
    start: (request) =>
      called(
        () =>
          client.workflow.start(request.workflow, {
            workflowId: request.execution,
            taskQueue,
            args: [JSON.parse(request.payload)],
            // one execution for each id, whatever its state: generations have ids of their own
            workflowIdReusePolicy: "REJECT_DUPLICATE",
            workflowIdConflictPolicy: "FAIL",
            memo: {
              [Memo.name]: {
                fingerprint: request.fingerprint,
                startedBy: request.startedBy,
                headers: request.headers
              } satisfies Memo.Kept
            }
          }).then((): WorkflowStarter.Accepted => ({ _tag: "Created" })),
        (error) =>
          error instanceof WorkflowExecutionAlreadyStartedError
            ? Effect.flatMap(describe(request), (found) => {
              const kept = Memo.read(found?.memo)
              return Effect.map(statusOf(request, found), (status): WorkflowStarter.Accepted => ({
                _tag: "Exists",
                status,
                startedBy: kept?.startedBy,
                fingerprint: kept?.fingerprint
              }))
            })
            : undefined
      ),
    status,
    signal: (target, name, payload) => running(target, () => handleOf(target).signal(name, JSON.parse(payload))),
    cancel: (target) => running(target, () => handleOf(target).cancel()),
    terminate: (target) => running(target, () => handleOf(target).terminate()),
    result
  }
}

/**
 * Provides `WorkflowStarter.Service` by one connection to Temporal, which is made at the first call: while the server is down,
 * messages return to their sources.
 *
 * The workflow's type is the name of its `WorkflowType`, its id the execution's id, its one argument the payload as JSON, so
 * workers of every language can run it. A failure whose `ApplicationFailure` has one detail is an error of the workflow's schema.
 * The memo `millrace` of each execution keeps the payload's fingerprint, the identity of the message and the headers.
 *
 * Errors of calls: unreachable, refused credentials, a missing namespace, no answer within `timeout`: `WorkflowUnavailable`, class
 * `dependency`; `RESOURCE_EXHAUSTED`: class `throttled`; `INVALID_ARGUMENT`, or larger than gRPC accepts: `WorkflowRefused`, class
 * `permanent`. A workflow that no worker knows is accepted by the server, and waits for a worker that does.
 *
 * **Example** (orders start workflows on Temporal)
 *
 * ```ts no-run
 * import { Idempotency, type Message } from "@millrace/core"
 * import { Temporal } from "@millrace/temporal"
 * import { StartWorkflow, WorkflowType } from "@millrace/workflow"
 * import { Layer, Schema } from "effect"
 *
 * const Fulfil = WorkflowType.make("FulfilOrder", { payload: Schema.String })
 * export const start = StartWorkflow.handler({
 *   workflow: Fulfil,
 *   key: (message: Message<Uint8Array>) => message.key,
 *   payload: (message: Message<Uint8Array>) => message.key ?? ""
 * })
 * export const live = Layer.merge(Temporal.layer({ taskQueue: "orders" }), Idempotency.layerMemory())
 * ```
 *
 * @throws RangeError when `taskQueue` or `address` is empty, or `timeout` is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<WorkflowStarter.Service> => {
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  for (const name of ["taskQueue", "address", "namespace"] as const) {
    if (options[name] === "") {
      throw new RangeError(`Temporal: ${name} must be a text of 1 character or more, got an empty text`)
    }
  }
  const namespace = options.namespace ?? defaults.namespace
  const { address } = connectionOf(options)
  return Layer.effect(
    WorkflowStarter.Service,
    Effect.map(
      Effect.acquireRelease(
        // the broker redelivers: a retry of the client would go on after the end of its call, and its error has no observer
        Effect.sync(() => Connection.lazy({ ...connectionOf(options), interceptors: [] })),
        (connection) => Effect.promise(() => connection.close().catch(() => undefined))
      ),
      (connection) => {
        const client = new Client({
          connection,
          namespace,
          ...(options.identity === undefined ? {} : { identity: options.identity }),
          interceptors: { workflow: [interceptor] }
        })
        return make(client, connection, options.taskQueue, timeout, { address, namespace })
      }
    )
  )
}

const text = (name: string) => Config.option(Config.String(name))

/**
 * The connection from the environment: `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS` (a boolean),
 * `TEMPORAL_TLS_SERVER_CA_CERT_DATA`, `TEMPORAL_TLS_CLIENT_CERT_DATA`, `TEMPORAL_TLS_CLIENT_KEY_DATA`, `TEMPORAL_TLS_SERVER_NAME`,
 * `TEMPORAL_IDENTITY`.
 */
export const connectionConfig: Config.Config<ConnectionOptions> = Config.map(
  Config.all({
    address: text("TEMPORAL_ADDRESS"),
    namespace: text("TEMPORAL_NAMESPACE"),
    apiKey: Config.option(Config.Redacted("TEMPORAL_API_KEY")),
    isTls: Config.option(Config.Boolean("TEMPORAL_TLS")),
    ca: text("TEMPORAL_TLS_SERVER_CA_CERT_DATA"),
    certificate: text("TEMPORAL_TLS_CLIENT_CERT_DATA"),
    key: Config.option(Config.Redacted("TEMPORAL_TLS_CLIENT_KEY_DATA")),
    serverName: text("TEMPORAL_TLS_SERVER_NAME"),
    identity: text("TEMPORAL_IDENTITY")
  }),
  ({ address, apiKey, ca, certificate, identity, isTls, key, namespace, serverName }) => {
    const tls: Tls = {
      ca: Option.getOrUndefined(ca),
      certificate: Option.getOrUndefined(certificate),
      key: Option.getOrUndefined(key),
      serverName: Option.getOrUndefined(serverName)
    }
    const hasTls = Object.values(tls).some((part) => part !== undefined)
    return {
      address: Option.getOrUndefined(address),
      namespace: Option.getOrUndefined(namespace),
      apiKey: Option.getOrUndefined(apiKey),
      identity: Option.getOrUndefined(identity),
      tls: Option.getOrUndefined(isTls) === false ? false : hasTls ? tls : Option.getOrUndefined(isTls)
    }
  }
)

/**
 * As `layer`, with the connection of `connectionConfig` and the task queue from `TEMPORAL_TASK_QUEUE`. `options` override the
 * environment.
 *
 * Fails with a `ConfigError` that names the variable.
 *
 * @category layers
 */
export const layerConfig = (
  options: Partial<Options> = {}
): Layer.Layer<WorkflowStarter.Service, Config.ConfigError> =>
  Layer.unwrap(
    Effect.gen(function*() {
      const connection = yield* connectionConfig
      const taskQueue = options.taskQueue ?? (yield* Config.String("TEMPORAL_TASK_QUEUE"))
      return layer({ ...connection, ...options, taskQueue })
    })
  )
