/**
 * The thread that owns the SQLite file, seen from the event loop: requests are effects, and a thread that ended is started
 * again by the next of them.
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
  /** Opens the file now, where it is not open. */
  readonly open: Effect.Effect<void, Failed>
  readonly ask: (request: Asked<Q>) => Effect.Effect<A, Failed>
  /** Closes the file and ends the thread, after all that was asked before. */
  readonly close: Effect.Effect<void>
}

/** A request without its id, which is given here. */
export type Asked<Q> = Q extends Request ? Omit<Q, "id"> : never

interface Live<A> {
  readonly worker: Worker
  readonly waiting: Map<number, (exit: Exit.Exit<A, Failed>) => void>
  readonly opened: Deferred.Deferred<unknown, Failed>
}

/** What to say where a bundler has put the program into a file of its own, and the thread's file not beside it. */
const missing = (file: string): string =>
  `its thread runs ${file}, which is not there: a bundler leaves it out, so let @millrace/sql stay outside of the bundle (external)`

/**
 * Makes a thread, which starts when it is first asked. It runs `script`, named without its ending and beside `of`: the sources
 * run as they are, and URLs are not rewritten when they are built. `moved` says what of a request is handed over, not copied.
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
  // those that may still have the file open, the one that did not open it included
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
      // a thread whose file does not open answers that and ends
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
        // on its way at once where the file is open: what is asked in order is done in order
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
