/**
 * Names of the keys that belong to one channel. All of them share the channel's slot, so a cluster, or a proxy that divides keys
 * by their hash tags, keeps them at one place.
 */
import { tagOf } from "./Slots.ts"

/** A key beside that of the channel. */
export const beside = (channel: string, ...words: ReadonlyArray<string>): string =>
  // the tag alone may be shared by several channels
  `{${tagOf(channel)}}:millrace:${[channel, ...words].map((word) => encodeURIComponent(word)).join(":")}`
