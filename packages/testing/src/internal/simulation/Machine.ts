/**
 * The machine behind a world: one scheduler, one clock, one source of randomness. The seed alone decides each history, so a
 * failed one can be replayed by its number.
 */
import { Cause, Clock, Context, Duration, Effect, Exit, Fiber, Logger, Metric, Random, Scheduler } from "effect"
import type { Held, History, Options, Process, World } from "./World.ts"

/** The Unix time at which every world begins: 2026-01-01T00:00:00Z. */
export const epoch = 1_767_225_600_000

/** mulberry32: 32 bits of state, a full period, and the same numbers on each machine. */
const chances = (seed: number): () => number => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

interface Task {
  readonly run: () => void
  readonly owner: Owner
}

interface Sleeper extends Task {
  readonly at: number
}

class Owner implements Process {
  alive = true
  /** Fibers that have begun and not ended. */
  fibers = 0
  readonly name: string
  readonly context: Context.Context<never>
  private readonly engine: Machine

  constructor(engine: Machine, name: string) {
    this.engine = engine
    this.name = name
    this.context = engine.contextOf(this)
  }

  fork<A, E>(effect: Effect.Effect<A, E>): Fiber.Fiber<A, E> {
    return Effect.runForkWith(this.context)(effect)
  }

  run<A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      const fiber = this.fork(effect)
      // a dead process does not answer an interruption
      return Effect.onInterrupt(Fiber.join(fiber), () => this.alive ? Fiber.interrupt(fiber) : Effect.void)
    })
  }

  kill(): void {
    this.engine.kill(this)
  }

  held(): Held {
    return { fibers: this.fibers, timers: this.engine.timersOf(this) }
  }
}

class Machine {
  readonly faults: Array<string> = []
  readonly lines: Array<string> = []
  private readonly seed: number
  private readonly limit: number
  private readonly recording: boolean
  private time = 0
  private steps = 0
  private tasks: Array<Task> = []
  private sleepers: Array<Sleeper> = []
  private soonest = Number.POSITIVE_INFINITY
  // three random streams: a program's choices do not depend on how often fibers are scheduled
  private readonly turns: () => number
  private readonly choices: () => number
  private readonly effects: () => number
  private readonly yields: number

  constructor(seed: number, options: Options) {
    this.seed = seed
    this.limit = options.steps ?? 20_000_000
    this.recording = options.record ?? false
    this.turns = chances(seed)
    this.choices = chances(seed ^ 0x5bd1e995)
    this.effects = chances(seed ^ 0x1b873593)
    // some worlds are calm, in others every fiber yields often
    this.yields = [0, 0.02, 0.05, 0.2][Math.floor(this.turns() * 4)]!
  }

  contextOf(owner: Owner): Context.Context<never> {
    const dispatcher: Scheduler.SchedulerDispatcher = {
      scheduleTask: (run) => {
        if (owner.alive) this.tasks.push({ run, owner })
      },
      flush: () => {}
    }
    const scheduler: Scheduler.Scheduler = {
      executionMode: "sync",
      shouldYield: () => ++this.steps > this.limit || !owner.alive || this.turns() < this.yields,
      makeDispatcher: () => dispatcher
    }
    const millis = () => epoch + this.time
    const nanos = () => BigInt(Math.round(millis() * 1000)) * 1000n
    const clock: Clock.Clock = {
      currentTimeMillisUnsafe: millis,
      currentTimeMillis: Effect.sync(millis),
      currentTimeNanosUnsafe: nanos,
      currentTimeNanos: Effect.sync(nanos),
      monotonicTimeNanosUnsafe: nanos,
      monotonicTimeNanos: Effect.sync(nanos),
      sleep: (duration) => this.sleep(Duration.toMillis(duration), owner)
    }
    const random: (typeof Random.Random)["Service"] = {
      nextDoubleUnsafe: this.effects,
      nextIntUnsafe: () => Math.floor(this.effects() * (2 ** 53 - 1))
    }
    const logger = Logger.make<unknown, void>(({ cause, logLevel, message }) => {
      if (!this.recording) return
      const parts = Array.isArray(message) ? message : [message]
      const reason = cause.reasons.length === 0 ? "" : ` ${text(cause)}`
      this.write(`${owner.name}: ${logLevel}: ${parts.map(text).join(" ")}${reason}`)
    })
    return Context.make(Scheduler.Scheduler, scheduler).pipe(
      Context.add(Clock.Clock, clock),
      Context.add(Random.Random, random),
      Context.add(Metric.FiberRuntimeMetrics, {
        recordFiberStart: () => {
          owner.fibers++
        },
        recordFiberEnd: () => {
          owner.fibers--
        }
      }),
      Context.add(Logger.CurrentLoggers, new Set([logger]))
    )
  }

  private sleep(milliseconds: number, owner: Owner): Effect.Effect<void> {
    // as Effect's own clock: a fiber that sleeps for no time runs on before any timer fires
    if (milliseconds <= 0) return Effect.yieldNow
    return Effect.callback<void>((resume) => {
      // no timer wakes an infinite sleep
      if (milliseconds === Number.POSITIVE_INFINITY) return Effect.void
      const at = this.time + milliseconds
      const sleeper: Sleeper = { at, owner, run: () => resume(Effect.void) }
      if (owner.alive) {
        this.sleepers.push(sleeper)
        this.soonest = Math.min(this.soonest, at)
      }
      return Effect.sync(() => this.forget((one) => one === sleeper))
    })
  }

  private forget(which: (one: Task) => boolean): void {
    this.sleepers = this.sleepers.filter((one) => !which(one))
    this.soonest = this.sleepers.reduce((least, { at }) => Math.min(least, at), Number.POSITIVE_INFINITY)
  }

  /** Makes sleepers whose time has come runnable, in any order. */
  private wake(): void {
    for (const sleeper of this.sleepers) if (sleeper.at <= this.time) this.tasks.push(sleeper)
    this.forget((one) => (one as Sleeper).at <= this.time)
  }

  kill(owner: Owner): void {
    owner.alive = false
    this.tasks = this.tasks.filter((one) => one.owner !== owner)
    this.forget((one) => one.owner === owner)
  }

  timersOf(owner: Owner): number {
    return this.sleepers.filter((one) => one.owner === owner).length
  }

  /** Runs one task. An uncaught exception would end a real program, so it is a fault of the history. */
  private step(task: Task): void {
    try {
      task.run()
    } catch (defect) {
      this.fault(`an exception that no fiber caught would end the process: ${text(defect)}`)
    }
  }

  private fault(what: string): void {
    this.faults.push(what)
    if (this.recording) this.write(`FAULT ${what}`)
  }

  private write(line: string): void {
    this.lines.push(`${this.time.toFixed(1).padStart(9)} ms  ${line}`)
  }

  readonly world = (): World => {
    const { choices } = this
    return {
      seed: this.seed,
      next: choices,
      integer: (low, high) => low + Math.floor(choices() * (high - low + 1)),
      chance: (rate) => choices() < rate,
      pick: (list) => list[Math.floor(choices() * list.length)]!,
      now: () => this.time,
      spend: (milliseconds) => {
        this.time += milliseconds
      },
      log: (line) => {
        if (this.recording) this.write(typeof line === "string" ? line : line())
      },
      expect: (holds, otherwise) => {
        if (holds) return
        this.fault(typeof otherwise === "string" ? otherwise : otherwise())
      },
      process: (name) => new Owner(this, name)
    }
  }

  run<A, E>(program: (world: World) => Effect.Effect<A, E>): History<A, E> {
    const world = this.world()
    const main = new Owner(this, "main").fork(Effect.suspend(() => program(world)))
    let exit: Exit.Exit<A, E> | undefined
    while ((exit = main.pollUnsafe()) === undefined) {
      if (++this.steps > this.limit) {
        exit = this.stuck(`livelock: no end after ${this.limit} steps`)
        break
      }
      if (this.soonest <= this.time) this.wake()
      const { length } = this.tasks
      if (length > 0) {
        const at = Math.floor(this.turns() * length)
        const task = this.tasks[at]!
        const last = this.tasks.pop()!
        if (at < length - 1) this.tasks[at] = last
        this.step(task)
      } else if (this.sleepers.length > 0) this.time = this.soonest
      else {
        exit = this.stuck(
          "deadlock: nothing can run and nobody sleeps; what waits, waits for something outside the world (a Promise, a real timer) or for ever"
        )
        break
      }
    }
    return { exit, faults: this.faults, log: this.lines, steps: this.steps, milliseconds: this.time }
  }

  private stuck(why: string): Exit.Exit<never> {
    this.faults.push(why)
    return Exit.die(new Error(why))
  }
}

/** A value as text. An error whose getters throw must not break the log: a log must not change the history. */
const text = (part: unknown): string => {
  try {
    return typeof part === "string"
      ? part
      : Cause.isCause(part)
      ? Cause.pretty(part)
      : part instanceof Error
      ? `${part.message}`
      : String(part)
  } catch {
    return "a value that cannot be read"
  }
}

/** Runs one history to its end, synchronously: no real time passes in it, and no outside event can reach it. */
export const run = <A, E>(
  seed: number,
  program: (world: World) => Effect.Effect<A, E>,
  options: Options = {}
): History<A, E> => new Machine(seed, options).run(program)
