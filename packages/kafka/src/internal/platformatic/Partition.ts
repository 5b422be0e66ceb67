/**
 * One assigned partition: its lease, its fetch position, and the fetched messages that wait for room in the engine.
 */
import type { Delivery, Driver, Origin } from "@millrace/core"
import { type Effect, Exit, type Fiber } from "effect"
import type { Progress } from "../Progress.ts"

/** Makes the key of a partition within a member. */
export const keyOf = (topic: string, partition: number): string => `${topic}:${partition}`

type Fork = <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>

/** Offers a partition's messages to the engine: one offer at a time, with at most one more answer fetched ahead. */
export class Partition {
  readonly topic: string
  readonly topicId: string
  readonly origin: Origin
  readonly lease: Driver.Lease
  readonly progress: Progress
  /** Set when the lease has ended: no more messages are offered under it. */
  closed = false
  /**
   * A replica nearer than the leader, and until when to fetch from it (Unix time in milliseconds); then the leader decides
   * again.
   */
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

  /** Whether another answer may be fetched: the engine has all messages fetched so far. */
  get hungry(): boolean {
    return !this.closed && !this.paused && this.queue.length === 0
  }

  /** Whether fetched messages wait for room. */
  get full(): boolean {
    return !this.paused && this.queue.length > 0
  }

  /** Queues fetched messages, and offers them while there is room. */
  add(deliveries: Array<Delivery>): void {
    this.queue = this.queue.length === 0 ? deliveries : this.queue.concat(deliveries)
    this.pass()
  }

  /** Pauses or resumes the offers. */
  pause(paused: boolean): void {
    this.paused = paused
    this.pass()
    this.wake()
  }

  private pass(): void {
    while (!this.closed && !this.paused && !this.waiting && this.queue.length > 0) {
      const { queue } = this
      const to = this.endOf(queue)
      // dequeue before `offer`: room may arrive before it returns
      this.queue = to === queue.length ? [] : queue.slice(to)
      const room = this.sink.offer(this.lease, to === queue.length ? queue : queue.slice(0, to))
      if (!Exit.isExit(room)) this.until(room)
    }
  }

  /** Finds the end of a batch: at most `batch` messages and `bytes` bytes, but at least one message. */
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

  /** Ends the partition and discards its queued messages. */
  end(): void {
    this.closed = true
    this.queue = []
  }
}
