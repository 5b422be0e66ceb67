/**
 * What runs side by side, and what waits: a lane runs one message at a time, in order.
 */
import * as OptionCheck from "../message/OptionCheck.ts"

/** One lane for each partition: the order of the broker. */
export interface Partition {
  readonly _tag: "partition"
}

/** One lane for each key, `limit` messages at once. */
export interface Key {
  readonly _tag: "key"
  readonly limit: number
  /** Where a message without a key goes: each into a lane of its own, or all of a partition into one. */
  readonly keyless: "unordered" | "partition"
}

/** No order, `limit` messages at once. */
export interface Unordered {
  readonly _tag: "unordered"
  readonly limit: number
}

/** What runs side by side. */
export type Lanes = Partition | Key | Unordered

/** Messages of a partition run one after another; partitions run side by side. */
export const partition: Partition = { _tag: "partition" }

/**
 * Messages of a key run one after another, up to `limit` messages of different keys side by side.
 *
 * Only keys that are busy have a lane. Messages without a key run in any order unless `keyless` is `partition`.
 *
 * @throws RangeError when `limit` is not an integer from 1
 */
export const key = (limit: number, options?: { readonly keyless?: "unordered" | "partition" | undefined }): Key => {
  const check = OptionCheck.make("Lanes.key")
  return {
    _tag: "key",
    limit: check.count("limit", limit),
    keyless: check.oneOf("keyless", options?.keyless ?? "unordered", ["unordered", "partition"])
  }
}

/**
 * Up to `limit` messages run side by side, in any order.
 *
 * @throws RangeError when `limit` is not an integer from 1
 */
export const unordered = (limit: number): Unordered => ({
  _tag: "unordered",
  limit: OptionCheck.make("Lanes.unordered").count("limit", limit)
})
