/**
 * Runs the thread that owns the SQLite file: requests are effects, and the next request restarts a thread that has
 * ended.
 */
import type { Audit } from "@millrace/core"
import { Deferred, Effect, Exit } from "effect"
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import type { Answer, Failed, Open } from "./protocol.ts"

interface Request {
  readonly id: number
  readonly operation: string
}

/** Thread and file of one store. */
export interface Thread<Q extends Request, A extends Answer> {
  /** Opens the file now, if it is not open. */
  readonly open: Effect.Effect<void, Failed>
  readonly ask: (request: Asked<Q>) => Effect.Effect<A, Failed>
  /** Closes the file and ends the thread, after all earlier requests. */
  readonly close: Effect.Effect<void>
}

/** A request without its id, which the thread's client adds. */
export type Asked<Q> = Q extends Request ? Omit<Q, "id"> : never

interface Live<A> {
  readonly worker: Worker
  readonly waiting: Map<number, (exit: Exit.Exit<A, Failed>) => void>
  readonly opened: Deferred.Deferred<unknown, Failed>
}

/** The error text if a bundler has moved the program into another file, without the thread's file beside it. */
const missing = (file: string): string =>
  `its thread runs ${file}, which is not there: a bundler leaves it out, so let @millrace/sql stay outside of the bundle (external)`

/**
 * Makes a thread, which starts with its first request. It runs `script`, named without its extension and relative to `of`: the
 * sources run unbuilt, and a build does not rewrite URLs. `moved` lists the buffers of a request that are transferred, not
 * copied.
 */
export const make = <Q extends Request, A extends Answer>(
  of: string,
  script: string,
  options: Open,
  moved: (request: Asked<Q>) => ReadonlyArray<ArrayBuffer>
): Thread<Q, A> => {
  type Running = Live<A>
  const file = new URL(`${script}.${of.endsWith(".ts") ? "ts" : "js"}`, of)
  let live: Running | undefined
  let last = 0
  // threads that may still have the file open, including one that failed to open it
  const threads = new Set<Running>()

  const end = (of: Running, message: string): void => {
    if (live === of) live = undefined
    const lost = Exit.fail<Failed>({ reason: "Lost" satisfies Audit.Reason, message })
    Deferred.doneUnsafe(of.opened, lost)
    for (const resume of of.waiting.values()) resume(lost)
    of.waiting.clear()
  }

  const start = (): Running => {
    const started: Running = {
      worker: new Worker(file, { workerData: options, execArgv: ["--disable-warning=ExperimentalWarning"] }),
      waiting: new Map(),
      opened: Deferred.makeUnsafe()
    }
    threads.add(started)
    started.waiting.set(0, (exit) => Deferred.doneUnsafe(started.opened, exit))
    started.worker.on("message", (reply: A) => {
      const resume = started.waiting.get(reply.id)
      started.waiting.delete(reply.id)
      // a thread whose file does not open reports that and ends
      if (reply.id === 0 && reply.failed !== undefined && live === started) live = undefined
      resume?.(reply.failed === undefined ? Exit.succeed(reply) : Exit.fail(reply.failed))
    })
    started.worker.on("error", (error) => end(started, String(error)))
    started.worker.on("exit", (code) => {
      threads.delete(started)
      end(started, `its thread ended with code ${code}`)
    })
    return started
  }

  const isClose = (asked: Asked<Q> | { readonly operation: "close" }): asked is { readonly operation: "close" } =>
    asked.operation === "close"

  const request = (on: Running, asked: Asked<Q> | { readonly operation: "close" }): Effect.Effect<A, Failed> =>
    Effect.callback((resume) => {
      const id = ++last
      on.waiting.set(id, resume)
      on.worker.postMessage({ ...asked, id }, isClose(asked) ? [] : [...moved(asked)])
    })

  const isThere = file.protocol !== "file:" || existsSync(file)

  const opened = Effect.suspend((): Effect.Effect<Running, Failed> => {
    if (!isThere) return Exit.fail({ reason: "Invalid", message: missing(fileURLToPath(file)) })
    const current = live ??= start()
    return Effect.as(Deferred.await(current.opened), current)
  })

  const ended = (of: Running): Effect.Effect<void> =>
    Effect.callback((resume) => {
      if (threads.has(of)) of.worker.on("exit", () => resume(Effect.void))
      else resume(Effect.void)
    })

  return {
    open: Effect.asVoid(opened),
    ask: (asked) =>
      Effect.suspend(() => {
        // post at once if the file is open, so that requests run in their order
        const current = live
        return current !== undefined && !current.waiting.has(0)
          ? request(current, asked)
          : Effect.flatMap(opened, (ready) => request(ready, asked))
      }),
    close: Effect.suspend(() =>
      Effect.andThen(
        live === undefined ? Effect.void : Effect.ignore(request(live, { operation: "close" })),
        Effect.forEach(threads, ended, { discard: true })
      )
    )
  }
}
