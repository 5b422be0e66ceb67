/**
 * A dispatcher without a worker: the test says how each message ends, and runs the tasks and the time of its program.
 */
import { type Delivery, type Lanes as LanesOption, Retries } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Clock, Context, Duration, Effect, Exit, Scheduler } from "effect"
import { Dispatcher } from "../../packages/core/src/internal/engine/Dispatcher.ts"
import { Lanes } from "../../packages/core/src/internal/engine/Lanes.ts"
import { type Batch, type Lane, leaseOf, LeaseState } from "../../packages/core/src/internal/engine/LeaseState.ts"
import { RetryChannels } from "../../packages/core/src/internal/engine/RetryChannels.ts"

/** How an attempt of a message ends. */
export type End = "done" | "suspended" | "held" | "lease lost"

/** A message as a test describes it. */
export interface Plan {
  readonly key?: string | undefined
  /** Of each attempt; those after the last are done. Default: none. */
  readonly ends?: ReadonlyArray<End> | undefined
  /** Milliseconds that its handler runs. Default: 0. */
  readonly cost?: number | undefined
  /** Of a retry channel: milliseconds until its time. Default: 0. */
  readonly wait?: number | undefined
}

/** A message that was taken in. */
export interface Taken {
  readonly delivery: Delivery
  readonly plan: Plan
  readonly lane: unknown
  readonly due: number
  starts: number
  state: "new" | "suspended" | "held" | "done"
  own: Lane | undefined
}

export interface Options {
  readonly lanes: LanesOption.Lanes
  /** Which channel of a subscription with retry channels it reads. Default: that of one without. */
  readonly tier?: number | undefined
}

interface Sleeper {
  readonly at: number
  readonly run: () => void
}

interface Task {
  readonly run: () => void
  readonly priority: number
}

/** A program that runs only when it is told to. */
class Machine {
  now = 1000
  /** Fibers yield at every chance of this number; 0 for never. */
  yields = 0
  private chances = 0
  sleepers: Array<Sleeper> = []
  /** How many sleeps have begun. */
  slept = 0
  tasks: Array<Task> = []
  readonly context: Context.Context<never>
  readonly clock: Clock.Clock

  constructor() {
    const dispatcher: Scheduler.SchedulerDispatcher = {
      scheduleTask: (run, priority) => {
        this.tasks.push({ run, priority })
        this.tasks.sort((a, b) => a.priority - b.priority)
      },
      flush: () => {}
    }
    const millis = () => this.now
    const nanos = () => BigInt(this.now) * 1_000_000n
    this.clock = {
      currentTimeMillisUnsafe: millis,
      currentTimeMillis: Effect.sync(millis),
      currentTimeNanosUnsafe: nanos,
      currentTimeNanos: Effect.sync(nanos),
      monotonicTimeNanosUnsafe: nanos,
      monotonicTimeNanos: Effect.sync(nanos),
      sleep: (duration) => this.sleep(Duration.toMillis(duration))
    }
    this.context = Context.make(Scheduler.Scheduler, {
      executionMode: "async",
      shouldYield: () => this.yields > 0 && ++this.chances % this.yields === 0,
      makeDispatcher: () => dispatcher
    }).pipe(Context.add(Clock.Clock, this.clock))
  }

  private sleep(milliseconds: number): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      this.slept++
      const sleeper = { at: this.now + milliseconds, run: () => resume(Exit.void) }
      this.sleepers.push(sleeper)
      return Effect.sync(() => {
        this.sleepers = this.sleepers.filter((each) => each !== sleeper)
      })
    })
  }

  /** Runs the tasks that wait, and no more. */
  step(): void {
    const { tasks } = this
    this.tasks = []
    for (const { run } of tasks) run()
  }

  /** Runs until nothing is left to do at this time. */
  settle(): void {
    for (let i = 0; i < 10_000; i++) {
      const due = this.sleepers.filter(({ at }) => at <= this.now)
      if (this.tasks.length === 0 && due.length === 0) return
      this.sleepers = this.sleepers.filter(({ at }) => at > this.now)
      for (const { run } of due) run()
      this.step()
    }
    throw new Error("The dispatcher does not come to rest")
  }

  advance(milliseconds: number): void {
    this.now += milliseconds
    this.settle()
  }
}

class FixedChannels extends RetryChannels {
  private readonly times: ReadonlyMap<Delivery, number>

  constructor(clock: Clock.Clock, times: ReadonlyMap<Delivery, number>) {
    super({ channel: "c", group: "g", pattern: undefined }, Retries.delayed(["1 second"]) as Retries.Delayed, clock)
    this.times = times
  }

  override due(delivery: Delivery): number {
    return this.times.get(delivery)!
  }
}

/** A dispatcher whose loop runs, and all that it has started. */
export class Dispatching {
  readonly machine = new Machine()
  readonly taken: Array<Taken> = []
  /** Positions in the order of their starts. */
  readonly started: Array<number> = []
  /** Positions of messages that were to start under a lease that is stopped. */
  readonly refused: Array<number> = []
  private readonly faults: Array<unknown> = []
  /** Ends of turns, each with the number of messages that had started by then. */
  readonly turns: Array<number> = []
  readonly leases: ReadonlyArray<LeaseState>
  mayStart = true
  readonly dispatcher: Dispatcher
  /** Called as a handler is. */
  handler: (position: number) => void = () => {}
  /** The most handlers that were suspended at once. */
  most = 0
  private readonly lanes: Lanes
  private readonly byDelivery = new Map<Delivery, Taken>()
  private readonly times = new Map<Delivery, number>()

  constructor({ lanes, tier }: Options) {
    const { clock, context } = this.machine
    this.lanes = new Lanes(lanes)
    this.leases = [0, 1, 2].map((partition) => new LeaseState({ partition }, 1_000_000, clock, () => {}))
    this.dispatcher = new Dispatcher({
      context,
      clock,
      lanes: this.lanes,
      limit: lanes._tag === "partition" ? Number.POSITIVE_INFINITY : lanes.limit,
      tier: tier === undefined ? undefined : { channels: new FixedChannels(clock, this.times), tier },
      mayStart: () => this.mayStart,
      start: (delivery, batch, lane) => this.start(delivery, batch, lane),
      turned: () => void this.turns.push(this.started.length)
    })
    Effect.runForkWith(context)(this.dispatcher.loop)
    this.machine.settle()
  }

  push(lease: number, ...plans: ReadonlyArray<Plan>): void {
    const state = this.leases[lease]!
    if (state.stopped) return
    const all = plans.map((plan): Taken => {
      const position = this.taken.length
      const delivery = Deliveries.make({ position, key: plan.key, partition: lease })
      const due = this.machine.now + (plan.wait ?? 0)
      const lane = this.lanes.idOf(delivery)
      const taken: Taken = { delivery, plan, lane, due, starts: 0, state: "new", own: undefined }
      this.taken.push(taken)
      this.byDelivery.set(delivery, taken)
      this.times.set(delivery, due)
      return taken
    })
    this.dispatcher.push(state.take(all.map(({ delivery }) => delivery)))
  }

  /** As `Worker.start` does. */
  private start(delivery: Delivery, batch: Batch, lane: Lane | undefined): boolean {
    if (batch.lease.stopped) {
      this.refused.push(delivery.position)
      return false
    }
    if (delivery.slot !== batch) throw new Error("A message of another batch")
    const taken = this.byDelivery.get(delivery)!
    this.started.push(delivery.position)
    this.machine.now += taken.plan.cost ?? 0
    const end = taken.plan.ends?.[taken.starts++] ?? "done"
    try {
      this.handler(delivery.position)
    } catch (defect) {
      this.faults.push(defect)
    }
    if (end === "lease lost") this.lose(delivery.partition)
    if (batch.lease.stopped) return false
    if (end === "done") {
      taken.state = "done"
      return true
    }
    taken.own = this.lanes.hold(delivery, lane)
    taken.state = end === "held" ? "held" : "suspended"
    if (end === "suspended") this.most = Math.max(this.most, ++this.dispatcher.active)
    return false
  }

  /** Runs until nothing is left to do at this time; throws as a handler did. */
  settle(): void {
    this.machine.settle()
    if (this.faults.length > 0) throw this.faults[0]
  }

  /** Messages of leases that last, in a state. */
  in(state: Taken["state"]): ReadonlyArray<Taken> {
    return this.taken.filter((each) => each.state === state && !leaseOf(each.delivery).stopped)
  }

  /** The handler of a suspended message ends; its lease may be lost. */
  finish(taken: Taken): void {
    taken.state = "done"
    if (!leaseOf(taken.delivery).lost) this.dispatcher.active--
    this.lanes.proceed(taken.own)
    this.dispatcher.wake()
  }

  /** A held message may run again. */
  again(taken: Taken): void {
    taken.state = "new"
    this.lanes.again(taken.delivery, taken.own)
    this.dispatcher.wake()
  }

  lose(lease: number): void {
    const state = this.leases[lease]!
    if (state.lost) return
    this.dispatcher.active -= this.in("suspended").filter(({ delivery }) => leaseOf(delivery) === state).length
    state.end()
    this.dispatcher.forget(state)
    this.dispatcher.wake()
  }
}
