/**
 * Group commit without a timer: items added while one group is written form the next group, so groups are small under low load
 * and large with a slow store.
 */
import { Deferred, Effect, type Exit, type Scope } from "effect"
import * as Detached from "../message/Detached.ts"
import * as OptionCheck from "../message/OptionCheck.ts"

/** Gathers items into groups and writes one group at a time. */
export interface Gather<in T, out E> {
  /**
   * Adds an item to the current group during the call: the item is written whether the returned effect is run or not, and in
   * the order of the calls.
   *
   * The effect completes when the group is written, and fails if that write fails. All items of a group get the same effect
   * object, so a caller with many items can wait once. Interrupting the effect stops the waiting; the item is still written.
   *
   * With `capacity` items unwritten, the item gets an effect of its own, which waits for room and then adds the item; an item
   * whose effect is never run, or is interrupted before there is room, is not written. Beyond `capacity` the order of such
   * items is not guaranteed. After the scope has closed nothing is written, and the effect is an interruption, which releases
   * a message that waits for it.
   */
  readonly add: (item: T) => Effect.Effect<void, E>
  /** Counts the unwritten items, without those waiting for room. */
  readonly pending: () => number
}

/** Options of `make`. */
export interface Options<T, E, R> {
  /** Writes one group, all or nothing. The gather calls it with 1 to `maximum` items, never twice at the same time. */
  readonly write: (items: ReadonlyArray<T>) => Effect.Effect<void, E, R>
  /** The most items of one write; an integer from 1. Default 1024. */
  readonly maximum?: number | undefined
  /** The most unwritten items; beyond it callers wait before they add. An integer from 1. Default 65,536. */
  readonly capacity?: number | undefined
}

class Group<T, E> {
  readonly items: Array<T> = []
  readonly done = Deferred.makeUnsafe<void, E>()
  readonly effect = Deferred.await(this.done)
}

const check = OptionCheck.make("Gather.make")

/**
 * Makes a gather that lives as long as the scope. Closing the scope writes the unwritten items and waits for the write, so the
 * finalizer takes as long as `write` does.
 *
 * A write starts on the next turn of the scheduler, on a fiber of its own: the items of one chunk share a group, and a write
 * that fails, dies or is interrupted ends only the items of its group. The gather does not retry a write.
 *
 * Backpressure: `add` never blocks its caller; the caller applies backpressure by waiting. `capacity` bounds the items of
 * callers that stop waiting.
 *
 * **Example** (one commit for many rows)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Gather } from "@millrace/core"
 *
 * const program = Effect.gen(function*() {
 *   const rows = yield* Gather.make({ write: (group: ReadonlyArray<string>) => Effect.log("commit", group.length) })
 *   yield* Effect.forEach(["a", "b", "c"], rows.add, { concurrency: "unbounded" })
 * }).pipe(Effect.scoped)
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const make = <T, E = never, R = never>(
  options: Options<T, E, R>
): Effect.Effect<Gather<T, E>, never, R | Scope.Scope> => {
  const maximum = check.count("maximum", options.maximum ?? 1024)
  const capacity = check.count("capacity", options.capacity ?? 65_536)
  return Effect.gen(function*() {
    const context = Detached.context(yield* Effect.context<R>())
    const fork = Effect.runForkWith(context)
    const groups: Array<Group<T, E>> = []
    let unwritten = 0
    let writing = false
    let closed = false
    let room: Deferred.Deferred<void> | undefined
    const idle = Deferred.makeUnsafe<void>()

    const begin = (): void => {
      writing = true
      let group: Group<T, E> | undefined
      const write = Effect.suspend(() => {
        group = groups.shift()!
        return options.write(group.items)
      })
      // this yield also keeps a store that answers synchronously from nesting its writes
      fork(Effect.andThen(Effect.yieldNow, write)).addObserver((exit) => end(group ?? groups.shift()!, exit))
    }

    const end = (group: Group<T, E>, exit: Exit.Exit<void, E>): void => {
      unwritten -= group.items.length
      if (groups.length > 0) begin()
      else writing = false
      // callers that waited for this group may add immediately
      Deferred.doneUnsafe(group.done, exit)
      const waiting = room
      room = undefined
      if (waiting !== undefined) Deferred.doneUnsafe(waiting, Effect.void)
      if (closed && !writing) Deferred.doneUnsafe(idle, Effect.void)
    }

    const addLater = (item: T): Effect.Effect<void, E> =>
      Effect.suspend(() => {
        if (closed || unwritten < capacity) return add(item)
        room ??= Deferred.makeUnsafe<void>()
        return Effect.andThen(Deferred.await(room), addLater(item))
      })

    const add = (item: T): Effect.Effect<void, E> => {
      if (closed) return Effect.interrupt
      if (unwritten >= capacity) return addLater(item)
      let group = groups.at(-1)
      if (group === undefined || group.items.length >= maximum) groups.push(group = new Group())
      group.items.push(item)
      unwritten += 1
      if (!writing) begin()
      return group.effect
    }

    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        closed = true
        return writing ? Deferred.await(idle) : Effect.void
      })
    )
    return { add, pending: () => unwritten }
  })
}
