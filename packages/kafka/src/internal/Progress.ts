/**
 * How far one lease has come, and the position to be committed.
 *
 * Marks of transactions, aborted messages and gaps of compaction have positions and are no messages. They are committed with
 * the last message before them, or by themselves once that one is committed: else a group that has done everything would be
 * counted as behind.
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
  /** Where the next fetch begins. */
  next: number
  private given: number
  private committed: number
  /** What an earlier member has settled beyond its offset. */
  private settled: Ranges
  private keeps: boolean
  private readonly turns = Semaphore.makeUnsafe(1)
  private readonly send: (position: number, metadata: string | null) => Effect.Effect<void, Failed>

  /** `from`: where the lease begins; `send` commits. `settled`: ranges beyond it, undefined where none are written or read. */
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

  /** Messages up to `last` were found, or none where it is undefined, and nothing more below `next`. */
  found(last: number | undefined, next: number): void {
    if (last !== undefined) this.given = last + 1
    this.next = next
  }

  /** The messages that no earlier member has settled. */
  unsettled<A extends { readonly position: number }>(messages: Array<A>): Array<A> {
    const { settled } = this
    if (settled.length === 0) return messages
    let at = 0
    return messages.filter(({ position }) => {
      while (at < settled.length && settled[at]!.to <= position) at++
      return at === settled.length || position < settled[at]!.from
    })
  }

  /** Offsets mean other messages from here on: what was settled beyond one is neither believed nor written. */
  forget(): void {
    this.keeps = false
    this.settled = []
  }

  /** Commits that all below `position` is done, and with it what is settled beyond. */
  commit(position: number, beyond: () => Ranges = none): Effect.Effect<void, Failed> {
    return this.turns.withPermits(1)(Effect.suspend(() => this.tell(this.behind(position), this.keeps ? beyond() : [])))
  }

  /** Whether everything found is committed, and behind it lies something that is no message. */
  get isAhead(): boolean {
    return this.committed >= this.given && this.next > this.committed
  }

  /** Commits past records that are no messages; where it fails, the next commit tells. */
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
    // the offset goes past what lies right behind it
    const isPast = first !== undefined && first.from === position
    const offset = isPast ? first.to : position
    return this.send(offset, encode(offset, isPast ? ranges.slice(1) : ranges)).pipe(
      Effect.catchIf(
        // a broker with a lower offset.metadata.max.bytes
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
