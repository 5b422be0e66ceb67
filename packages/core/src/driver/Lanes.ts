/**
 * Lanes decide which messages run concurrently: a lane runs one message at a time, in order.
 */
import * as OptionCheck from "../message/OptionCheck.ts"

/** One lane for each partition, in the broker's order. */
export interface Partition {
  readonly _tag: "partition"
}

/** One lane for each key, `limit` messages at once. */
export interface Key {
  readonly _tag: "key"
  readonly limit: number
  /** The lane of a message without a key: one of its own, or one for all such messages of a partition. */
  readonly keyless: "unordered" | "partition"
}

/** No order, `limit` messages at once. */
export interface Unordered {
  readonly _tag: "unordered"
  readonly limit: number
}

/** The lanes of a subscription. */
export type Lanes = Partition | Key | Unordered

/** Runs messages of a partition one after another, and partitions concurrently. */
export const partition: Partition = { _tag: "partition" }

/**
 * Runs messages of a key one after another, and up to `limit` messages of different keys concurrently.
 *
 * Only keys with messages in flight have a lane. Messages without a key run in any order unless `keyless` is `partition`.
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
 * Runs up to `limit` messages concurrently, in any order.
 *
 * @throws RangeError when `limit` is not an integer from 1
 */
export const unordered = (limit: number): Unordered => ({
  _tag: "unordered",
  limit: OptionCheck.make("Lanes.unordered").count("limit", limit)
})
