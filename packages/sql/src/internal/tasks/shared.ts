/**
 * Shared by the SQL tables of tasks.
 */
import type { TaskStore } from "@millrace/core"

/** A row as a database returns it. */
export interface StoredRow {
  readonly id: string
  readonly queue: string
  readonly state: TaskStore.State
  readonly version: number
  readonly created_at: number
  readonly content: string
}

/** Converts a row; undefined if there is none. */
export const rowOf = (
  { content, created_at, id, queue, state, version }: { readonly [K in keyof StoredRow]?: StoredRow[K] | null }
): TaskStore.Row | undefined =>
  typeof id === "string"
    // the columns are not null where the id is not
    ? { id, queue: queue!, state: state!, version: version!, createdAt: created_at!, content: content! }
    : undefined

/** Splits a group so that no part has a key twice, in order. */
export const distinct = <T>(group: ReadonlyArray<T>, keyOf: (item: T) => string): ReadonlyArray<ReadonlyArray<T>> => {
  const parts: Array<Map<string, T>> = []
  for (const item of group) {
    const key = keyOf(item)
    const part = parts.find((each) => !each.has(key))
    if (part === undefined) parts.push(new Map([[key, item]]))
    else part.set(key, item)
  }
  return parts.map((part) => Array.from(part.values()))
}
