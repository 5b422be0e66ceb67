/**
 * A worker process, replaced by a new one when a mutant has spoiled it.
 */
import { type ChildProcess, fork } from "node:child_process"
import { mkdirSync } from "node:fs"
import { join } from "node:path"
import { scratch } from "./copies.ts"
import type { Reply, Request, Survey, Verdict } from "./protocol.ts"

/** What a process that starts, loads and surveys a file may take. */
const patience = 300_000

export class Process {
  private readonly copy: string
  private readonly switches: number
  private child: ChildProcess | undefined
  /** How many processes were started. */
  started = 0

  constructor(copy: string, switches: number) {
    this.copy = copy
    this.switches = switches
  }

  private start(): ChildProcess {
    mkdirSync(scratch, { recursive: true })
    this.started++
    // A mutant may read; it writes nowhere else, and starts no process.
    const limits = [
      "--permission",
      "--allow-fs-read=*",
      `--allow-fs-write=${scratch}`,
      "--allow-worker",
      "--allow-addons",
      "--max-old-space-size=1024",
      "--no-warnings"
    ]
    return fork(join(import.meta.dirname, "worker.ts"), [this.copy, String(this.switches)], {
      execArgv: limits,
      stdio: ["ignore", "ignore", "ignore", "ipc"],
      env: { ...process.env, TMPDIR: scratch }
    })
  }

  end(): void {
    this.child?.kill("SIGKILL")
    this.child = undefined
  }

  /** Sends a request; `onReply` says whether it was the last reply, or for how long the next one may take. */
  private ask<A>(
    request: Request,
    onReply: (reply: Reply) => { readonly done: A } | number,
    onEnd: (hung: boolean) => A
  ) {
    const child = this.child ??= this.start()
    return new Promise<A>((resolve) => {
      let timer: NodeJS.Timeout | undefined
      const finish = (answer: A): void => {
        clearTimeout(timer)
        child.removeAllListeners()
        resolve(answer)
      }
      const stop = (hung: boolean): void => {
        const answer = onEnd(hung)
        this.end()
        finish(answer)
      }
      const wait = (milliseconds: number): void => {
        clearTimeout(timer)
        timer = setTimeout(() => stop(true), milliseconds)
      }
      child.on("message", (reply: Reply) => {
        const next = onReply(reply)
        if (typeof next === "number") wait(next)
        else finish(next.done)
      })
      child.on("exit", () => stop(false))
      child.on("error", () => stop(false))
      wait(patience)
      child.send(request)
    })
  }

  survey(file: string): Promise<Survey> {
    return this.ask<Survey>(
      { _tag: "survey", file },
      (reply) => reply._tag === "surveyed" ? { done: reply.survey } : patience,
      (hung) => ({ file, tests: [], static: [], refused: [`${file}: the process ${hung ? "hangs" : "ends"}`] })
    )
  }

  /** Runs tests against a mutant until one fails. */
  async run(request: Extract<Request, { _tag: "run" }>): Promise<Verdict> {
    for (let attempt = 1;; attempt++) {
      if (request.isFresh) this.end()
      const isNew = this.child === undefined
      let by = "loading"
      const { spoiled, verdict } = await this.ask<{ readonly verdict: Verdict; readonly spoiled: boolean }>(
        request,
        (reply) => {
          if (reply._tag === "verdict") return { done: reply }
          if (reply._tag !== "began") return patience
          by = reply.test
          return 2 * reply.limit + 20_000
        },
        (hung) => ({
          verdict: hung ? { _tag: "timed out", by } : { _tag: "killed", by, why: "the process ended" },
          spoiled: true
        })
      )
      if (spoiled) this.end()
      // A process that earlier mutants have used is no witness when it is spoiled.
      if (!spoiled || isNew || verdict._tag === "survived" || attempt === 2) return verdict
    }
  }
}
