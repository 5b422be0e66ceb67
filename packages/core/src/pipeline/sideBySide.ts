/**
 * Runs a middleware for all messages of one `publishAll` concurrently: `next` of each message ends with the result of the batch.
 */
import { Effect, Exit, Fiber } from "effect"
import * as Eager from "./Eager.ts"
import type { Call, Entry, Run, Take } from "./inBatch.ts"

type Ended = Exit.Exit<unknown, unknown>
type Result = Effect.Effect<unknown, unknown, unknown>

/** A message that the middleware has passed to `next`, waiting for the end of the batch. */
class Waiting {
  readonly at: number
  readonly entry: Entry
  readonly effect: Effect.Effect<unknown, unknown>
  private exit: Ended | undefined
  private resume: ((exit: Ended) => void) | undefined

  constructor(at: number, entry: Entry, leave: (waiting: Waiting) => void) {
    this.at = at
    this.entry = entry
    this.effect = Effect.callback<unknown, unknown>((resume) => {
      if (this.exit !== undefined) return resume(this.exit)
      this.resume = resume
      return Effect.sync(() => leave(this))
    })
  }

  end(exit: Ended): void {
    this.exit = exit
    this.resume?.(exit)
  }
}

/** How long messages wait inside for another message's next attempt after the batch has failed, in milliseconds. */
const longestRound = 60_000

/** One batch passing through one middleware. */
class Batch {
  private readonly call: Call
  private readonly run: Run
  private readonly entries: ReadonlyArray<Entry>
  private readonly patience: number
  private readonly stalled: () => Result
  private readonly fibers: Array<{ readonly at: number; readonly fiber: Fiber.Fiber<unknown, unknown> }> = []
  /** Messages whose chain has neither passed them to `next` nor ended. */
  private readonly moving = new Set<number>()
  /** Messages waiting in `next` for the next attempt of the batch. */
  private readonly gathered = new Set<Waiting>()
  private published: ReadonlyArray<Waiting> = []
  private state: "open" | "published" | "given up" = "open"
  /** Whether the middleware returned the effect of `next` itself for a message, and so cannot pass that message on again. */
  private isFinal = false
  /** The failure of the first message, in message order, whose chain has failed. */
  private failed: Ended | undefined
  private failedAt = Infinity
  private wake = (): void => {}
  private abort = (_: Ended): void => {}

  constructor(call: Call, run: Run, entries: ReadonlyArray<Entry>, patience: number, stalled: () => Result) {
    this.call = call
    this.run = run
    this.entries = entries
    this.patience = patience
    this.stalled = stalled
  }

  whole(): Result {
    return Effect.onExitPrimitive(this.from(0), (exit) => {
      if (exit._tag === "Success") return undefined
      this.state = "given up"
      return this.interrupt()
    })
  }

  private interrupt(): Effect.Effect<void> | undefined {
    const left = this.fibers.filter(({ fiber }) => fiber.pollUnsafe() === undefined)
    return left.length === 0 ? undefined : Fiber.interruptAll(left.map(({ fiber }) => fiber))
  }

  /** Starts each message when the previous one has reached `next`, so messages are gathered in order. */
  private from(at: number): Result {
    for (let i = at; i < this.entries.length; i++) {
      let passed: Waiting | undefined
      const result = this.call(this.entries[i]!, this.take(i, (waiting) => passed = waiting))
      if (Eager.isDone(result)) {
        if (result._tag === "Failure") return result
        continue
      }
      if (passed !== undefined && result === passed.effect) {
        // the middleware has no work left for this message, so the message needs no fiber
        this.isFinal = true
        continue
      }
      const others = this.fibers.some(({ fiber }) => fiber.pollUnsafe() === undefined)
      this.moving.add(i)
      // the call has added the services of the message to the effect
      const fiber = Effect.runForkWith(this.entries[i]!.context)(result as Effect.Effect<unknown, unknown>)
      this.fibers.push({ at: i, fiber })
      if (passed !== undefined) this.moving.delete(i)
      fiber.addObserver((exit) => this.ended(i, exit))
      const early = fiber.pollUnsafe()
      if (early?._tag === "Failure") return early
      if (!this.moving.has(i)) continue
      const ready = others ? Effect.timeoutOption(this.idle, this.patience) : Effect.asSome(this.idle)
      return Effect.flatMap(ready, (found) => {
        if (found._tag === "Some") return this.failed ?? this.from(i + 1)
        this.state = "given up"
        return Effect.andThen(this.interrupt() ?? Exit.void, Effect.suspend(this.stalled))
      })
    }
    return this.publish()
  }

  private take(at: number, passed?: (waiting: Waiting) => void): Take {
    return (message, context) => {
      if (this.state === "published") return undefined
      // this message was blocked until the others were interrupted, and is about to be interrupted, too
      if (this.state === "given up") return Effect.interrupt
      const isAway = this.published.length > 0
      // a message passed to `next` twice at the same time gets the result of the batch twice; a copy is published alone
      if (isAway && !this.published.some((each) => each.at === at && each.entry.message === message)) return undefined
      const waiting = new Waiting(at, { message, context }, (left) => {
        this.gathered.delete(left)
      })
      if (isAway) this.published = [...this.published, waiting]
      else this.gathered.add(waiting)
      passed?.(waiting)
      this.still(at)
      return waiting.effect
    }
  }

  private ended(at: number, exit: Ended): void {
    if (exit._tag === "Failure") {
      if (at < this.failedAt) {
        this.failedAt = at
        this.failed = exit
      }
      this.abort(exit)
    }
    this.still(at)
  }

  private still(at: number): void {
    if (this.moving.delete(at) && this.moving.size === 0) this.wake()
  }

  /** Completes when each message waits in `next` or its chain has ended. */
  private readonly idle: Effect.Effect<void> = Effect.callback<void>((resume) => {
    if (this.moving.size === 0) return resume(Effect.void)
    this.wake = () => resume(Effect.void)
  })

  private publish(): Result {
    if (this.failed !== undefined) return this.failed
    const batch = Array.from(this.gathered).sort((a, b) => a.at - b.at)
    if (batch.length === 0) {
      // a message that reaches `next` later, on a fiber of its own, is published alone
      this.state = "published"
      return Exit.void
    }
    this.gathered.clear()
    this.published = batch
    const sent = Effect.exit(this.run(batch.map(({ entry }) => entry)))
    const told = (exit: Ended): Result => this.told(exit)
    if (this.fibers.length === 0) return Effect.flatMap(sent, told)
    // a chain that fails while the batch is being published, for example by its own time limit, ends the batch
    const aborted = Effect.callback<Result>((resume) => {
      this.abort = (exit) => resume(Exit.succeed(exit))
    })
    return Effect.flatten(Effect.raceFirst(Effect.map(sent, (exit) => Effect.suspend(() => told(exit))), aborted))
  }

  private told(exit: Ended): Result {
    this.abort = () => {}
    if (exit._tag === "Success") this.state = "published"
    const all = this.published
    this.published = []
    for (const { at, fiber } of this.fibers) if (fiber.pollUnsafe() === undefined) this.moving.add(at)
    for (const waiting of all) waiting.end(exit)
    if (this.state === "published") return Effect.flatMap(this.idle, () => this.failed ?? Exit.void)
    return this.again(exit)
  }

  /** Publishes the messages as one batch again if, after a failure, the middleware passes all of them to `next` again. */
  private again(exit: Ended): Result {
    return Effect.flatMap(Effect.timeoutOption(this.idle, longestRound), (found) => {
      if (found._tag === "None") return this.gathered.size === 0 ? this.again(exit) : exit
      return this.failed ?? (this.isFinal ? exit : this.publish())
    })
  }
}

/** How long messages wait inside for a message that does not reach `next`, in milliseconds. */
const patience = 1000

/**
 * Runs all messages concurrently, each started when the previous one has reached `next`; `next` of each ends with the batch.
 * Messages passed to `next` again after a failure are one batch again.
 *
 * `stalled` takes over if a message has not reached `next` for a second while others are inside; those are then interrupted.
 */
export const sideBySide =
  (call: Call, run: Run, stalled?: (entries: ReadonlyArray<Entry>) => Result): Run => (entries) =>
    Effect.suspend(() =>
      new Batch(call, run, entries, stalled === undefined ? Infinity : patience, () => stalled?.(entries) ?? Exit.void)
        .whole()
    )
