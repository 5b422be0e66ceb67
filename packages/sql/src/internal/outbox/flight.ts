/**
 * The rows that a relay is sending: they, and the later rows of their lanes, are not read again meanwhile.
 */
import type { InFlight } from "./claims.ts"
import type { Stored } from "./rows.ts"

/** Rows in flight, by id and by lane. */
export class Flight implements InFlight {
  private readonly rows = new Map<string, Stored>()
  private readonly counts = new Map<string, number>()
  /** Bytes of the payloads. */
  bytes = 0

  get size(): number {
    return this.rows.size
  }
  get ids(): ReadonlyArray<string> {
    return Array.from(this.rows.keys())
  }
  get lanes(): ReadonlyArray<string> {
    return Array.from(this.counts.keys())
  }
  /** The lanes of rows that have failed before: rows may be held behind them. */
  holding(ids: ReadonlyArray<string>): ReadonlyArray<string> {
    return ids.flatMap((id) => {
      const row = this.rows.get(id)
      return row === undefined || row.lane === null || row.attempts === 0 ? [] : [row.lane]
    })
  }
  add(rows: ReadonlyArray<Stored>): void {
    for (const row of rows) {
      this.rows.set(row.id, row)
      this.bytes += row.bytes
      if (row.lane !== null) this.counts.set(row.lane, (this.counts.get(row.lane) ?? 0) + 1)
    }
  }
  remove(ids: Iterable<string>): void {
    for (const id of ids) {
      const row = this.rows.get(id)
      if (row === undefined) continue
      this.rows.delete(id)
      this.bytes -= row.bytes
      if (row.lane === null) continue
      const left = this.counts.get(row.lane)! - 1
      if (left === 0) this.counts.delete(row.lane)
      else this.counts.set(row.lane, left)
    }
  }
}
