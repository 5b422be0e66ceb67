/**
 * How far one lease has come, and the position to be committed.
 *
 * Marks of transactions, aborted messages and gaps of compaction have positions and are no messages. They are committed with
 * the last message before them, or by themselves once that one is committed: else a group that has done everything would be
 * counted as behind.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Semaphore } from "effect"

type Failed = BrokerError.BrokerError

/** The positions of one lease. */
export class Progress {
  /** Where the next fetch begins. */
  next: number
  private given: number
  private committed: number
  private readonly turns = Semaphore.makeUnsafe(1)
  private readonly send: (position: number) => Effect.Effect<void, Failed>

  /** `from`: where the lease begins; `send` commits. */
  constructor(from: number, send: (position: number) => Effect.Effect<void, Failed>) {
    this.next = this.given = this.committed = from
    this.send = send
  }

  /** Messages up to `last` were found, or none where it is undefined, and nothing more below `next`. */
  found(last: number | undefined, next: number): void {
    if (last !== undefined) this.given = last + 1
    this.next = next
  }

  /** Commits that all below `position` is done. */
  commit(position: number): Effect.Effect<void, Failed> {
    return this.turns.withPermits(1)(Effect.suspend(() => this.tell(this.behind(position))))
  }

  /** Whether everything found is committed, and behind it lies something that is no message. */
  get isAhead(): boolean {
    return this.committed >= this.given && this.next > this.committed
  }

  /** Commits past records that are no messages; where it fails, the next commit tells. */
  get catchUp(): Effect.Effect<void> {
    return Effect.ignore(
      this.turns.withPermits(1)(Effect.suspend(() => this.isAhead ? this.tell(this.next) : Effect.void))
    )
  }

  private behind(position: number): number {
    return position >= this.given ? Math.max(position, this.next) : position
  }

  private tell(position: number): Effect.Effect<void, Failed> {
    return Effect.map(this.send(position), () => {
      this.committed = Math.max(this.committed, position)
    })
  }
}
