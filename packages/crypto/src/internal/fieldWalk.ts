/**
 * Walks to the marked values of a payload and replaces them, without changing the payload that it is given.
 */
import { Eager } from "@millrace/core"
import { Effect, Exit } from "effect"
import type { Mark, Place } from "./places.ts"

/** A marked value. */
export interface Leaf {
  readonly mark: Mark
  /** The place in the schema, for error texts: `*` for elements of lists and entries of records. */
  readonly place: string
  /** The names and numbers that lead to it. */
  readonly path: ReadonlyArray<string>
  /** As `path`, with `*` for each element of a list: the same for all of them. */
  readonly pattern: ReadonlyArray<string>
  readonly value: unknown
  readonly set: (value: unknown) => void
}

type Container = Record<string, unknown>

const isContainer = (value: unknown): value is Container =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value) &&
  !(value instanceof Date)

/** Copies the containers on the way to marked values, and collects these. */
const copied = (
  value: unknown,
  place: Place | undefined,
  path: ReadonlyArray<string>,
  pattern: ReadonlyArray<string>,
  set: Leaf["set"],
  leaves: Array<Leaf>
): unknown => {
  if (place === undefined || value === undefined) return value
  if (place.mark !== undefined) {
    leaves.push({ mark: place.mark, place: place.path, path, pattern, value, set })
    return value
  }
  if (Array.isArray(value)) {
    const list: Array<unknown> = []
    value.forEach((each: unknown, index) => {
      const name = String(index)
      list.push(copied(each, place.item(index), [...path, name], [...pattern, "*"], (next) => {
        list[index] = next
      }, leaves))
    })
    return list
  }
  if (!isContainer(value)) return value
  // the copy has every key as its own, so an assignment to __proto__ sets no prototype
  const copy: Container = { ...value }
  for (const name of Object.keys(value)) {
    const below = place.at(name)
    if (below === undefined) continue
    const whole = [...pattern, name]
    copy[name] = copied(value[name], below, [...path, name], whole, (next) => {
      copy[name] = next
    }, leaves)
  }
  return copy
}

/** Replaces the marked values of a payload by `change`, one after the other; an Exit when nothing suspends. */
export const replaced = <E, R>(
  root: Place,
  payload: unknown,
  change: (leaf: Leaf, payload: unknown) => Effect.Effect<unknown, E, R>
): Effect.Effect<unknown, E, R> => {
  const leaves: Array<Leaf> = []
  const holder = { payload: undefined as unknown }
  holder.payload = copied(payload, root, [], [], (next) => {
    holder.payload = next
  }, leaves)
  const from = (first: number): Effect.Effect<unknown, E, R> => {
    for (let i = first; i < leaves.length; i++) {
      const leaf = leaves[i]!
      const changed = change(leaf, payload)
      if (!Eager.isDone(changed)) {
        return Effect.flatMap(changed, (value) => {
          leaf.set(value)
          return from(i + 1)
        })
      }
      if (Exit.isFailure(changed)) return changed
      leaf.set(changed.value)
    }
    return Exit.succeed(holder.payload)
  }
  return from(0)
}
