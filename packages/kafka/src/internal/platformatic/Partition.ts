/**
 * One partition that is assigned: its lease, how far it is fetched, and what waits for room in the engine.
 */
import type { Delivery, Driver, Origin } from "@millrace/core"
import { type Effect, Exit, type Fiber } from "effect"
import type { Progress } from "../Progress.ts"

/** A partition's name among those of a member. */
export const keyOf = (topic: string, partition: number): string => `${topic}:${partition}`

type Fork = <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>

/** Pushes a partition's messages: one offer at a time, and at most one more answer fetched ahead. */
export class Partition {
  readonly topic: string
  readonly topicId: string
  readonly origin: Origin
  readonly lease: Driver.Lease
  readonly progress: Progress
  /** Set when the lease has ended: nothing more is offered under it. */
  closed = false
  /** A replica that is nearer than the leader, and until when it is asked (Unix time in milliseconds); then the leader tells again. */
  near: { readonly node: number; readonly until: number } | undefined
  private queue: Array<Delivery> = []
  private waiting = false
  private paused = false
  private readonly sink: Driver.Sink
  private readonly options: Driver.ConsumeOptions
  private readonly fork: Fork
  private readonly wake: () => void

  constructor(
    parts: {
      readonly topic: string
      readonly topicId: string
      readonly origin: Origin
      readonly lease: Driver.Lease
      readonly progress: Progress
    },
    engine: { readonly sink: Driver.Sink; readonly options: Driver.ConsumeOptions; readonly fork: Fork },
    wake: () => void
  ) {
    this.topic = parts.topic
    this.topicId = parts.topicId
    this.origin = parts.origin
    this.lease = parts.lease
    this.progress = parts.progress
    this.sink = engine.sink
    this.options = engine.options
    this.fork = engine.fork
    this.wake = wake
  }

  get key(): string {
    return keyOf(this.topic, this.origin.partition)
  }

  /** Whether another answer may be fetched: what was fetched is with the engine. */
  get hungry(): boolean {
    return !this.closed && !this.paused && this.queue.length === 0
  }

  /** Whether something fetched still waits for room. */
  get full(): boolean {
    return !this.paused && this.queue.length > 0
  }

  /** Takes what was fetched, and passes it on as far as there is room. */
  add(deliveries: Array<Delivery>): void {
    this.queue = this.queue.length === 0 ? deliveries : this.queue.concat(deliveries)
    this.pass()
  }

  /** Stops passing on, or goes on. */
  pause(paused: boolean): void {
    this.paused = paused
    this.pass()
    this.wake()
  }

  private pass(): void {
    while (!this.closed && !this.paused && !this.waiting && this.queue.length > 0) {
      const { queue } = this
      const to = this.endOf(queue)
      // taken off before it is offered: room may come before `offer` has returned
      this.queue = to === queue.length ? [] : queue.slice(to)
      const room = this.sink.offer(this.lease, to === queue.length ? queue : queue.slice(0, to))
      if (!Exit.isExit(room)) this.until(room)
    }
  }

  /** The end of a batch: as many messages and bytes as were asked for, and one at least. */
  private endOf(queue: ReadonlyArray<Delivery>): number {
    const { batch, bytes } = this.options
    const end = Math.min(batch, queue.length)
    let sum = 0
    for (let i = 0; i < end; i++) {
      sum += queue[i]!.raw.length
      if (sum > bytes && i > 0) return i
    }
    return end
  }

  private until(room: Effect.Effect<void>): void {
    this.waiting = true
    this.fork(room).addObserver(() => {
      this.waiting = false
      this.pass()
      this.wake()
    })
  }

  /** Ends it here: what was fetched and not taken is forgotten. */
  end(): void {
    this.closed = true
    this.queue = []
  }
}
