/**
 * Runs checks concurrently, each within its time limit, and stores their answers.
 */
import { Clock, Deferred, Effect, Exit, type Fiber, Metric, type Scope, Semaphore } from "effect"
import * as Detached from "../message/Detached.ts"
import type * as Check from "./Check.ts"
import * as Report from "./Report.ts"

/** The checked options; times in milliseconds. */
export interface Settings {
  readonly cache: number
  readonly concurrency: number
  readonly maximumChecks: number
}

const up = Metric.gauge("millrace.health.up", {
  description: "1 while a check is up, 0.5 while it is degraded, 0 while it is down."
})

const gauges: Record<Report.Status, number> = { up: 1, degraded: 0.5, down: 0 }

/** Most names on the gauge; later names are not shown. */
const maximumLabels = 1000

/** One check, and its last answer. */
class Entry {
  readonly check: Check.Check<never> | Check.Liveness
  result: Report.Result | undefined
  /** Monotonic milliseconds of the last answer. */
  answered = -Infinity
  /** Completes when the current run has an answer: all reports in the meantime wait for the same run. */
  asking: Deferred.Deferred<void> | undefined
  /** The last run, if it timed out and has not ended, and its start. */
  hanging: { readonly fiber: Fiber.Fiber<unknown, unknown>; readonly since: number } | undefined
  /** The fibers that run the check and wait for its answer. */
  fibers: ReadonlyArray<Fiber.Fiber<unknown, unknown>> = []

  constructor(check: Check.Check<never> | Check.Liveness) {
    this.check = check
  }
}

/** The checks of a program. */
export interface Registry {
  readonly add: (check: Check.Check<never> | Check.Liveness) => Effect.Effect<void, never, Scope.Scope>
  readonly report: (kind: Report.Report["kind"]) => Effect.Effect<Report.Report>
  readonly phase: (phase: Report.Phase) => Effect.Effect<void>
}

/** Makes an empty registry; removing a check interrupts its fibers without waiting for them. */
export const make = (settings: Settings): Effect.Effect<Registry, never, Scope.Scope> =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const runFork = Effect.runForkWith(Detached.context(yield* Effect.context<never>()))
    const permits = Semaphore.makeUnsafe(settings.concurrency)
    const entries = new Map<string, Entry>()
    const labels = new Set<string>()
    let phase: Report.Phase = "starting"

    const now = (): number => Number(clock.monotonicTimeNanosUnsafe()) / 1e6

    const tell = (
      before: Report.Result | undefined,
      after: Report.Result,
      exit: Exit.Exit<unknown, unknown> | undefined
    ) => {
      if (before?.status === after.status) return
      const { name, status } = after
      if (labels.has(name) || labels.size < maximumLabels) {
        labels.add(name)
        runFork(Metric.update(Metric.withAttributes(up, { check: name }), gauges[status]))
      }
      if (status === "up") {
        if (before !== undefined) runFork(Effect.logInfo(`Health: ${name} is up again`))
      } else if (status === "degraded") {
        runFork(Effect.logWarning(`Health: ${name} is degraded: ${after.why}`))
      } else if (exit?._tag === "Failure") {
        runFork(Effect.logWarning(`Health: ${name} is down`, exit.cause))
      } else {
        runFork(Effect.logWarning(`Health: ${name} is down: ${after.error?.tag ?? ""}`))
      }
    }

    const record = (entry: Entry, found: Report.Found, latency: number, exit?: Exit.Exit<unknown, unknown>): void => {
      const { check, result: before } = entry
      const at = clock.currentTimeMillisUnsafe()
      const failures = found.status === "down" ? (before?.failures ?? 0) + 1 : 0
      const isHeld = found.status === "down" && before !== undefined && check._tag === "Check" &&
        failures < check.downAfter
      const status = isHeld ? before.status : found.status
      const after: Report.Result = {
        name: check.name,
        kind: check.kind,
        status,
        whenDown: check._tag === "Check" ? check.whenDown : "down",
        latency,
        at,
        since: before?.status === status ? before.since : at,
        failures,
        error: found.error,
        why: isHeld ? before.why : found.why,
        details: found.details
      }
      entry.result = after
      entry.answered = now()
      tell(before, after, exit)
    }

    /** Runs a check, and waits no longer than its time limit, even if the check ignores interruption. */
    const run = (entry: Entry, check: Check.Check<never>): Effect.Effect<void> =>
      Effect.suspend(() => {
        const begun = now()
        const { hanging } = entry
        if (hanging !== undefined) {
          // one run at a time: runs that never end would pile up
          record(entry, Report.late, begun - hanging.since)
          return Effect.void
        }
        const ended = Deferred.makeUnsafe<void>()
        const fiber = runFork(check.ask)
        entry.fibers = [...entry.fibers, fiber]
        fiber.addObserver(() => {
          if (entry.hanging?.fiber === fiber) entry.hanging = undefined
          Deferred.doneUnsafe(ended, Exit.void)
        })
        return Effect.map(Effect.timeoutOption(Deferred.await(ended), check.timeLimit), () => {
          // the run may have ended at the last moment
          const exit = fiber.pollUnsafe()
          if (exit !== undefined) return record(entry, Report.foundOf(exit, check.explain), now() - begun, exit)
          entry.hanging = { fiber, since: begun }
          fiber.interruptUnsafe()
          record(entry, Report.late, now() - begun)
        })
      })

    const isFresh = ({ answered, check, result }: Entry): boolean => {
      if (result === undefined || check._tag === "Liveness") return false
      if (check.kind === "startup" && result.status !== "down") return true
      const cache = check.cache ?? settings.cache
      const age = now() - answered
      // the background refresh renews the answer sooner
      return age < cache || (check.refresh !== undefined && age < check.refresh + check.timeLimit)
    }

    const start = (entry: Entry, check: Check.Check<never>): Effect.Effect<void> => {
      const asking = entry.asking = Deferred.makeUnsafe<void>()
      const done = Effect.sync(() => {
        entry.asking = undefined
        entry.fibers = entry.hanging === undefined ? [] : [entry.hanging.fiber]
        Deferred.doneUnsafe(asking, Exit.void)
      })
      // a separate fiber, so that an interrupted report does not interrupt the run, for which other reports wait
      const fiber = runFork(Effect.ensuring(permits.withPermit(run(entry, check)), done))
      if (fiber.pollUnsafe() === undefined) entry.fibers = [...entry.fibers, fiber]
      return Deferred.await(asking)
    }

    const live = (entry: Entry, check: Check.Liveness): void => {
      const begun = now()
      let exit: Exit.Exit<boolean>
      try {
        exit = Exit.succeed(check.isAlive())
      } catch (defect) {
        exit = Exit.die(defect)
      }
      const found = exit._tag === "Success" && !exit.value ? Report.notAlive : Report.foundOf(exit, () => undefined)
      record(entry, found, now() - begun, exit)
    }

    const ask = (entry: Entry, isForced = false): Effect.Effect<void> =>
      Effect.suspend(() => {
        const { check } = entry
        if (check._tag === "Liveness") {
          live(entry, check)
          return Effect.void
        }
        if (!isForced && isFresh(entry)) return Effect.void
        return entry.asking === undefined ? start(entry, check) : Deferred.await(entry.asking)
      })

    return {
      phase: (next) =>
        Effect.sync(() => {
          // draining is final
          if (phase !== "draining") phase = next
        }),
      add: (check) =>
        Effect.acquireRelease(
          Effect.sync(() => {
            if (entries.has(check.name)) {
              throw new RangeError(`Health: name must be of one check, got ${check.name} twice`)
            }
            if (entries.size >= settings.maximumChecks) {
              throw new RangeError(`Health: checks must be at most ${settings.maximumChecks}, got one more`)
            }
            const entry = new Entry(check)
            entries.set(check.name, entry)
            return entry
          }),
          (entry) =>
            Effect.sync(() => {
              entries.delete(check.name)
              for (const fiber of entry.fibers) fiber.interruptUnsafe()
            })
        ).pipe(
          Effect.flatMap((entry) =>
            check._tag === "Liveness" || check.refresh === undefined
              ? Effect.void
              : Effect.forkScoped(
                Detached.effect(Effect.forever(Effect.andThen(ask(entry, true), Effect.sleep(check.refresh))))
              )
          )
        ),
      report: (kind) =>
        Effect.suspend(() => {
          const chosen = Array.from(entries.values()).filter(({ check }) => kind === "all" || check.kind === kind)
          // a draining program reports so at once, and runs only its liveness checks
          const asked = phase === "draining"
            ? chosen.filter(({ check }) => check._tag === "Liveness")
            : chosen
          return Effect.map(
            Effect.forEach(asked, (entry) => ask(entry), { concurrency: "unbounded", discard: true }),
            () =>
              Report.make(
                kind,
                phase,
                clock.currentTimeMillisUnsafe(),
                chosen.flatMap(({ result }) => result ?? [])
              )
          )
        })
    }
  })
