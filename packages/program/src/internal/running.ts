/**
 * A running program: its parts side by side, its readiness, and its stop in order.
 */
import { Detached, Failure, Health } from "@millrace/core"
import { Clock, type Config, Context, Deferred, Effect, Exit, Fiber, Layer, Option, References, Scope } from "effect"
import * as Errors from "./errors.ts"
import { type Part, stages } from "./part.ts"
import { type Choice, select } from "./selection.ts"
import { type PartState, Supervisor } from "./supervisor.ts"

/** A program, with its types erased; times in milliseconds. */
export interface Plan {
  readonly name: string
  readonly parts: ReadonlyMap<string, Part<never>>
  readonly services: Layer.Layer<never, unknown, never> | undefined
  readonly ready: number
  readonly wait: number
  readonly budget: number
}

/** A started program. */
export interface Started {
  readonly parts: Effect.Effect<ReadonlyArray<PartState>>
  readonly ended: Effect.Effect<void, Errors.PartFailed>
}

const read = <A extends boolean | string>(value: A | Config.Config<A>): Effect.Effect<A, Config.ConfigError> =>
  typeof value === "object" ? value : Effect.succeed(value)

class PartDown {
  readonly _tag = "PartDown"
  readonly failure = "dependency"
  readonly message: string
  constructor(message: string) {
    this.message = message
  }
}

/** The health of a part: its own while it is ready, and down while it is not. */
const checkOf = (supervisor: Supervisor): Health.Check<never> =>
  Health.check({
    name: `part ${supervisor.name}`,
    whenDown: supervisor.settings.whenDown,
    cache: 0,
    explain: (error) => Failure.tagOf(error) === "PartDown" ? Failure.messageOf(error) : undefined,
    check: Effect.suspend((): Effect.Effect<Health.Answer, unknown> => {
      const { check, name, restarts, state } = supervisor
      if (state === "ready" && check !== undefined) return check
      if (state === "ready" || state === "done" || state === "off") return Effect.succeed({ state, restarts })
      return Effect.fail(new PartDown(`${name} is ${state}`))
    })
  })

const failureOf = (part: string, error: unknown, why: string): Errors.PartFailed =>
  new Errors.PartFailed({
    part,
    message: `The part ${part} failed, ${why}: ${Failure.messageOf(error, 1000) || Failure.tagOf(error)}`,
    failure: Failure.classOf(error) ?? "defect",
    cause: error
  })

/** Builds the services on a fiber of its own, since a build that ignores its interruption must not hold up the program. */
const build = (plan: Plan, memo: Layer.MemoMap, scope: Scope.Scope) =>
  Effect.gen(function*() {
    if (plan.services === undefined) return Context.empty()
    const building = yield* Effect.forkDetach(Layer.buildWithMemoMap(plan.services, memo, scope))
    const built = yield* Effect.onInterrupt(
      Effect.timeoutOption(Fiber.await(building), plan.ready),
      () => Effect.sync(() => building.interruptUnsafe())
    )
    if (Option.isSome(built)) return yield* built.value
    building.interruptUnsafe()
    const error = new Errors.NotReady({ message: `they were not ready within ${plan.ready} ms` })
    return yield* failureOf("services", error, "and the program cannot run without them")
  })

/**
 * Starts a program; completes when it is ready. Closing the scope stops it, in order and within its budget; `told` gets the
 * names of the parts that did not stop in time.
 */
export const start = (
  plan: Plan,
  choice: Choice,
  told: (late: ReadonlyArray<string>) => void = () => {}
): Effect.Effect<Started, unknown, Scope.Scope> =>
  Effect.gen(function*() {
    const begun = yield* Clock.currentTimeMillis
    const names = yield* select([...plan.parts.keys()], choice)
    const supervisors: Array<Supervisor> = []
    const levels = new Map<string, typeof References.MinimumLogLevel.Service>()
    for (const [name, part] of plan.parts) {
      const supervisor = new Supervisor(name, part)
      supervisors.push(supervisor)
      const { logLevel } = part.settings
      if (logLevel !== undefined) levels.set(name, yield* read(logLevel))
      const isChosen = names.includes(name) && (yield* read(part.settings.enabled))
      if (isChosen) supervisor.state = "starting"
    }
    const chosen = supervisors.filter(({ state }) => state === "starting")
    if (chosen.length === 0) {
      return yield* new Errors.SelectionError({
        source: "MILLRACE_PARTS",
        message: `no part is enabled of ${names.join(", ")}: enable one, or choose others`
      })
    }

    const outer = Detached.context(yield* Effect.context<never>())
    const memo = Layer.CurrentMemoMap.forkOrCreate(outer)
    const shared = Scope.makeUnsafe()
    const checks = yield* Effect.scope
    const loops = new Map<Supervisor, Fiber.Fiber<void>>()
    let registry: Health.Registry["Service"] | undefined

    const stopOne = (supervisor: Supervisor, limit: number) =>
      Effect.gen(function*() {
        const from = yield* Clock.currentTimeMillis
        const loop = loops.get(supervisor)
        // the loop only waits, so it ends at once
        if (loop !== undefined) yield* Fiber.interrupt(loop)
        const isStopped = yield* supervisor.stop(limit)
        const took = (yield* Clock.currentTimeMillis) - from
        return { name: supervisor.name, isStopped, took }
      })

    const stop = Effect.gen(function*() {
      const from = yield* Clock.currentTimeMillis
      const steps = stages.map((stage) => chosen.filter(({ part }) => part.stage === stage)).filter(({ length }) =>
        length > 0
      )
      // each later step keeps a share, so that parts that hang leave time to the relays and the services
      const left = (later: number) =>
        Effect.map(Clock.currentTimeMillis, (now) => Math.max(0, from + plan.budget * (1 - later / 20) - now))
      if (registry !== undefined) yield* registry.draining
      if (plan.wait > 0) yield* Effect.sleep(plan.wait)
      const stopped: Array<{ readonly name: string; readonly isStopped: boolean; readonly took: number }> = []
      for (const [i, step] of steps.entries()) {
        const limit = yield* left(steps.length - i)
        stopped.push(
          ...yield* Effect.forEach(step, (supervisor) => stopOne(supervisor, limit), { concurrency: "unbounded" })
        )
      }
      const at = yield* Clock.currentTimeMillis
      const closing = yield* Effect.forkDetach(Scope.close(shared, Exit.void))
      yield* Effect.timeoutOption(Fiber.await(closing), yield* left(0))
      const isStopped = closing.pollUnsafe() !== undefined
      if (plan.services !== undefined) {
        stopped.push({ name: "services", isStopped, took: (yield* Clock.currentTimeMillis) - at })
      }
      const late = stopped.filter(({ isStopped }) => !isStopped).map(({ name }) => name)
      if (late.length > 0) told(late)
      const took = (yield* Clock.currentTimeMillis) - from
      const each = stopped.map(({ isStopped, name, took }) =>
        `${name} ${took} ms${isStopped ? "" : " and not stopped"}`
      )
      if (late.length === 0) yield* Effect.logInfo(`${plan.name} stopped in ${took} ms: ${each.join(", ")}`)
      else {yield* Effect.logError(
          `${plan.name} did not stop within its budget of ${plan.budget} ms: ${each.join(", ")}`
        )}
    })

    // on a fiber of its own, so that its time limits hold: a finalizer cannot be interrupted
    yield* Effect.addFinalizer(() => Effect.flatMap(Effect.forkDetach(stop), Fiber.await))

    const services = yield* build(plan, memo, shared)
    const context = Context.add(Context.merge(outer, services), Layer.CurrentMemoMap, memo)
    registry = Option.getOrUndefined(Context.getOption(context, Health.Registry))
    if (registry !== undefined) {
      for (const supervisor of chosen) yield* Scope.provide(registry.add(checkOf(supervisor)), checks)
    }

    const ended = Deferred.makeUnsafe<void, Errors.PartFailed>()
    const isStarted = Deferred.makeUnsafe<void>()
    const waiting = new Set(chosen.filter(({ settings }) => settings.whenDown === "down"))
    const running = new Set(chosen)
    const arrived = (supervisor: Supervisor) =>
      Effect.suspend(() => {
        waiting.delete(supervisor)
        return waiting.size === 0 ? Deferred.succeed(isStarted, undefined) : Effect.void
      })

    const supervise = (supervisor: Supervisor): Effect.Effect<void> =>
      Effect.gen(function*() {
        const { name, settings } = supervisor
        const end = yield* supervisor.run(Effect.asVoid(arrived(supervisor)))
        if (end._tag === "Failed" && settings.onFailure === "exit") {
          yield* Deferred.fail(ended, failureOf(name, end.error, end.why))
          return
        }
        if (end._tag === "Done" && settings.onEnd === "exit") yield* Deferred.succeed(ended, undefined)
        yield* arrived(supervisor)
        running.delete(supervisor)
        if (running.size > 0) return
        const first = chosen.find(({ state }) => state === "failed")
        yield* first === undefined
          ? Deferred.succeed(ended, undefined)
          : Deferred.fail(ended, failureOf(first.name, first.lastError, "and no part is left"))
      })

    for (const supervisor of chosen) {
      const level = levels.get(supervisor.name)
      const own = level === undefined ? context : Context.add(context, References.MinimumLogLevel, level)
      const loop = yield* Effect.forkDetach(Effect.provideContext(supervise(supervisor), own))
      loops.set(supervisor, loop)
    }

    if (waiting.size === 0) yield* Deferred.succeed(isStarted, undefined)
    yield* Effect.raceFirst(Deferred.await(isStarted), Deferred.await(ended))
    if (registry !== undefined) yield* registry.started
    const off = supervisors.filter(({ state }) => state === "off").map(({ name }) => name)
    const took = (yield* Clock.currentTimeMillis) - begun
    yield* Effect.logInfo(
      `${plan.name} is ready in ${took} ms: ${
        chosen.filter(({ state }) => state !== "off").map(({ name }) => name).join(", ")
      }${off.length === 0 ? "" : `; off: ${off.join(", ")}`}`
    )
    return {
      parts: Effect.sync(() => supervisors.map(({ shown }) => shown)),
      ended: Deferred.await(ended)
    }
  })
