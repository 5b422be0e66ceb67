/**
 * Keeps tasks in the memory of one process.
 */
import { type Clock, Exit } from "effect"
import { isEnd, type State, TaskStoreUnavailable } from "./record.ts"
import type { Row, Table } from "./table.ts"
import { Watchers } from "./Watchers.ts"

interface Kept {
  row: Row
  readonly payload: Uint8Array
  due: number | undefined
  removeAt: number | undefined
}

/** How many of the oldest ended rows an insertion examines; rows whose time is over are removed. */
const looks = 4

class Rows {
  private readonly rows = new Map<string, Kept>()
  private readonly holders = new Map<string, { readonly id: string; readonly until: number | undefined }>()
  // in the order of their insertion here, which is nearly the order of their removal
  private readonly ended = new Map<string, number>()
  private readonly dues = new Set<Kept>()
  private readonly watchers: Watchers
  private readonly capacity: number

  constructor(watchers: Watchers, capacity: number) {
    this.watchers = watchers
    this.capacity = capacity
  }

  find(id: string, now: number): Kept | undefined {
    const kept = this.rows.get(id)
    if (kept?.removeAt === undefined || kept.removeAt > now) return kept
    this.drop(kept)
    return undefined
  }

  holder(key: string, now: number): string | undefined {
    const found = this.holders.get(key)
    if (found === undefined) return undefined
    if (found.until === undefined ? this.find(found.id, now) !== undefined : found.until > now) return found.id
    this.holders.delete(key)
    return undefined
  }

  hold(key: string, id: string, until: number | undefined): void {
    this.holders.set(key, { id, until })
  }

  release(key: string, id: string): void {
    if (this.holders.get(key)?.id === id) this.holders.delete(key)
  }

  /** Makes room for a row: beyond the capacity the tasks that ended first are forgotten. */
  hasRoom(now: number): boolean {
    this.sweep(now)
    if (this.rows.size < this.capacity) return true
    const [oldest] = this.ended.keys()
    if (oldest === undefined) return false
    this.drop(this.rows.get(oldest)!)
    return true
  }

  add(row: Row, payload: Uint8Array, due: number | undefined): void {
    const kept: Kept = { row, payload, due, removeAt: undefined }
    this.rows.set(row.id, kept)
    if (due !== undefined) this.dues.add(kept)
  }

  write(kept: Kept, row: Row, due: number | undefined, removeAt: number | undefined, tells: boolean): void {
    kept.row = row
    this.move(kept, due)
    kept.removeAt = removeAt
    if (removeAt === undefined) this.ended.delete(row.id)
    else this.ended.set(row.id, removeAt)
    if (tells) this.watchers.tell(row.id)
  }

  move(kept: Kept, due: number | undefined): void {
    kept.due = due
    if (due === undefined) this.dues.delete(kept)
    else this.dues.add(kept)
  }

  drop(kept: Kept): void {
    this.rows.delete(kept.row.id)
    this.ended.delete(kept.row.id)
    this.dues.delete(kept)
  }

  inOrder(): ReadonlyArray<Kept> {
    return Array.from(this.dues).sort((a, b) => a.due! - b.due!)
  }

  of(queue: string, after: string, limit: number, now: number): ReadonlyArray<Row> {
    return Array.from(this.rows.values())
      .filter((kept) => kept.row.queue === queue && kept.row.id > after && !(kept.removeAt! <= now))
      .map(({ row }) => row)
      .sort((a, b) => a.id < b.id ? -1 : 1)
      .slice(0, limit)
  }

  private sweep(now: number): void {
    let looked = 0
    for (const [id, removeAt] of this.ended) {
      if (removeAt <= now) this.drop(this.rows.get(id)!)
      if (++looked === looks) return
    }
  }
}

const full = Exit.fail(
  new TaskStoreUnavailable({
    message: "The memory store of tasks is full of tasks that have not ended: raise its capacity, or add workers."
  })
)

/** Makes a table in memory with room for `capacity` rows. */
export const make = (clock: Clock.Clock, capacity: number): Table => {
  const watchers = new Watchers()
  const rows = new Rows(watchers, capacity)
  const time = () => clock.currentTimeMillisUnsafe()
  return {
    insert: ({ content, due, id, payload, queue, unique }) => {
      const now = time()
      if (rows.find(id, now) !== undefined) return Exit.succeed({ _tag: "Exists" })
      const holder = unique === undefined ? undefined : rows.holder(unique.key, now)
      if (holder !== undefined) return Exit.succeed({ _tag: "Held", id: holder })
      if (!rows.hasRoom(now)) return full
      const state: State = "pending"
      const at = due === undefined ? undefined : "at" in due ? due.at : now + due.after
      rows.add({ id, queue, state, version: 1, createdAt: now, content }, payload, at)
      if (unique !== undefined) {
        rows.hold(unique.key, id, unique.millis === undefined ? undefined : now + unique.millis)
      }
      return Exit.succeed({ _tag: "Inserted" })
    },
    load: (id) => {
      const now = time()
      return Exit.succeed({ now, row: rows.find(id, now)?.row })
    },
    save: ({ content, id, isDue = false, keep, releases, state, tells, version }) => {
      const now = time()
      const kept = rows.find(id, now)
      if (kept?.row.version !== version) return Exit.succeed(false)
      const row = { ...kept.row, state, content, version: version + 1 }
      if (releases !== undefined) rows.release(releases, id)
      rows.write(kept, row, isDue ? now : undefined, keep === undefined ? undefined : now + keep, tells)
      return Exit.succeed(true)
    },
    published: (id) => {
      const kept = rows.find(id, time())
      if (kept !== undefined && !isEnd(kept.row.state)) rows.move(kept, undefined)
      return Exit.void
    },
    due: (limit, lease) => {
      const now = time()
      const all = rows.inOrder()
      const taken = all.filter(({ due }) => due! <= now).slice(0, limit)
      for (const kept of taken) rows.move(kept, now + lease)
      const next = all.find((kept) => !taken.includes(kept))?.due
      return Exit.succeed({
        rows: taken.map(({ payload, row: { content, id, queue } }) => ({ id, queue, payload, content })),
        next: next === undefined ? undefined : Math.max(0, next - now)
      })
    },
    scan: (queue, after, limit) => Exit.succeed(rows.of(queue, after, limit, time())),
    remove: (id, _queue, version, unique) => {
      const kept = rows.find(id, time())
      if (kept?.row.version !== version) return Exit.succeed(false)
      if (unique !== undefined) rows.release(unique, id)
      rows.drop(kept)
      watchers.tell(id)
      return Exit.succeed(true)
    },
    watch: watchers.watch,
    isTold: true
  }
}
