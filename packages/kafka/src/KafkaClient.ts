/**
 * The connection: kafkajs clients, their log led into Effect's, and what is secret kept out of it.
 */
import type { BrokerError } from "@millrace/core"
import { Context, Effect, LogLevel, References } from "effect"
import { logLevel } from "kafkajs"
import { createRequire } from "node:module"
import * as KafkaError from "./KafkaError.ts"
import type { Connection, Log } from "./KafkaOptions.ts"
import * as KafkaOptions from "./KafkaOptions.ts"

/** Checks options; fails with a `BrokerError` of reason `Invalid` that names the option. */
export const make = (options: KafkaOptions.Options): Effect.Effect<Connection, BrokerError.BrokerError> =>
  Effect.suspend(() => {
    quiet()
    return KafkaOptions.check(options)
  })

/**
 * What of kafkajs's errors and warnings is worth a warning: it goes on trying, and nobody else would tell. The rest it tries
 * again with success, or gives back as the error of a call.
 */
const telling = /^Connection (error|timeout)/

const severities: ReadonlyArray<readonly [logLevel, LogLevel.Severity]> = [
  [logLevel.ERROR, "Warn"],
  [logLevel.WARN, "Info"],
  [logLevel.INFO, "Debug"],
  [logLevel.DEBUG, "Trace"]
]

/** Leads kafkajs's log into Effect's, with the loggers and the level of the fiber that asks. */
export const logger = (connection: Connection): Effect.Effect<Log> =>
  Effect.map(Effect.context<never>(), (context) => {
    const run = Effect.runForkWith(context)
    const least = LogLevel.getOrdinal(Context.get(context, References.MinimumLogLevel))
    const shown = (severity: LogLevel.Severity) => LogLevel.getOrdinal(severity) >= least
    const { redact } = connection.place
    return {
      logLevel: severities.findLast(([, severity]) => shown(severity))?.[0] ?? logLevel.NOTHING,
      logCreator: () => ({ level, log, namespace }) => {
        const { logger: _, message, stack: __, timestamp: ___, ...more } = log
        const found = severities.find(([each]) => each === level)?.[1] ?? "Trace"
        const severity = (found === "Warn" || found === "Info") && !telling.test(message) ? "Debug" : found
        if (!shown(severity)) return
        const annotations: Record<string, string> = { kafkajs: namespace ?? "" }
        for (const name in more) {
          const value: unknown = more[name]
          if (value !== undefined) {
            annotations[name] = redact(typeof value === "string" ? value : JSON.stringify(value) ?? "")
          }
        }
        run(Effect.annotateLogs(Effect.logWithLevel(severity)(redact(message)), annotations))
      }
    }
  })

let isQuiet = false

/**
 * kafkajs 2.2.4 sets a timer with a negative time after each answer, of which Node 24 warns every program on its console. Where
 * no request waits there is nothing to look for later, and what comes to wait sets a timer of its own.
 */
const quiet = (): void => {
  if (isQuiet) return
  isQuiet = true
  interface Queue {
    readonly pending: ReadonlyArray<unknown>
    scheduleCheckPendingRequests(): void
  }
  let prototype: Queue
  try {
    prototype = createRequire(import.meta.url)("kafkajs/src/network/requestQueue").prototype
  } catch {
    // another version, or a bundle: the warning comes, and nothing else changes
    return
  }
  const schedule = prototype.scheduleCheckPendingRequests
  if (typeof schedule !== "function") return
  prototype.scheduleCheckPendingRequests = function(this: Queue) {
    if (this.pending.length > 0) schedule.call(this)
  }
}

/** Calls kafkajs; what it throws becomes a `BrokerError`. */
export const attempt = <A>(
  connection: Connection,
  operation: BrokerError.BrokerError["operation"],
  call: () => Promise<A>,
  where?: { readonly channel?: string | undefined; readonly group?: string | undefined }
): Effect.Effect<A, BrokerError.BrokerError> =>
  Effect.tryPromise({
    try: call,
    catch: (error) => KafkaError.fromUnknown(error, operation, { ...connection.place, ...where })
  })

/** Disconnects a client; one that does not answer is left behind after 5 seconds. */
export const disconnect = (client: { disconnect(): Promise<void> }): Effect.Effect<void> =>
  Effect.interruptible(Effect.tryPromise(() => client.disconnect())).pipe(
    Effect.timeoutOption("5 seconds"),
    Effect.ignore
  )
