/**
 * The progress of one lease, and the position to commit.
 *
 * Transaction markers, aborted messages and gaps of compaction have offsets but are not messages. They are committed with the
 * last message before them, or by themselves once that message is committed; otherwise a group that has processed everything
 * would show lag.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, Semaphore } from "effect"
import * as Errors from "./Errors.ts"
import { encode, merge } from "./SettledRanges.ts"

type Failed = BrokerError.BrokerError
type Ranges = ReadonlyArray<Driver.Range>

const none = (): Ranges => []

/** The positions of one lease. */
export class Progress {
  /** The position of the next fetch. */
  next: number
  private given: number
  private committed: number
  /** Ranges beyond the committed offset that an earlier member has settled. */
  private settled: Ranges
  private keeps: boolean
  private readonly turns = Semaphore.makeUnsafe(1)
  private readonly send: (position: number, metadata: string | null) => Effect.Effect<void, Failed>

  /**
   * `from`: the first position of the lease. `send` commits. `settled`: settled ranges beyond `from`; undefined if ranges are
   * neither written nor read.
   */
  constructor(
    from: number,
    send: (position: number, metadata: string | null) => Effect.Effect<void, Failed>,
    settled?: Ranges
  ) {
    this.next = this.given = this.committed = from
    this.send = send
    this.keeps = settled !== undefined
    this.settled = settled ?? []
  }

  /** Records a fetch: its last message was at `last` (undefined if there was none), and nothing more lies below `next`. */
  found(last: number | undefined, next: number): void {
    if (last !== undefined) this.given = last + 1
    this.next = next
  }

  /** Filters out the messages that an earlier member has settled. */
  unsettled<A extends { readonly position: number }>(messages: Array<A>): Array<A> {
    const { settled } = this
    if (settled.length === 0) return messages
    let at = 0
    return messages.filter(({ position }) => {
      while (at < settled.length && settled[at]!.to <= position) at++
      return at === settled.length || position < settled[at]!.from
    })
  }

  /** Discards the settled ranges and writes none any more, because offsets now denote other messages. */
  forget(): void {
    this.keeps = false
    this.settled = []
  }

  /** Commits `position`, below which all messages are settled, and the settled ranges beyond it. */
  commit(position: number, beyond: () => Ranges = none): Effect.Effect<void, Failed> {
    return this.turns.withPermits(1)(Effect.suspend(() => this.tell(this.behind(position), this.keeps ? beyond() : [])))
  }

  /** Whether all fetched messages are committed, and offsets that are not messages follow them. */
  get isAhead(): boolean {
    return this.committed >= this.given && this.next > this.committed
  }

  /** Commits past offsets that are not messages. Errors are ignored: the next commit includes them. */
  get catchUp(): Effect.Effect<void> {
    return Effect.ignore(
      this.turns.withPermits(1)(Effect.suspend(() => this.isAhead ? this.tell(this.next, []) : Effect.void))
    )
  }

  private behind(position: number): number {
    return position >= this.given ? Math.max(position, this.next) : position
  }

  private tell(position: number, beyond: Ranges): Effect.Effect<void, Failed> {
    const ranges = merge(position, this.settled, beyond)
    const [first] = ranges
    // the offset moves past a settled range that starts at it
    const isPast = first !== undefined && first.from === position
    const offset = isPast ? first.to : position
    return this.send(offset, encode(offset, isPast ? ranges.slice(1) : ranges)).pipe(
      Effect.catchIf(
        // the broker has a lower offset.metadata.max.bytes
        (error) => Errors.typeOf(error.cause) === "OFFSET_METADATA_TOO_LARGE",
        () => {
          this.keeps = false
          return this.send(offset, null)
        }
      ),
      Effect.map(() => {
        this.committed = Math.max(this.committed, offset)
        if (this.settled.length > 0) this.settled = merge(this.committed, this.settled)
      })
    )
  }
}
