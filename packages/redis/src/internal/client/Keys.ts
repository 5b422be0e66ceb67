/**
 * Names the keys that belong to one channel. All of them share the channel's slot, so a cluster, or a proxy that shards
 * by hash tag, keeps them on one node.
 */
import { tagOf } from "./Slots.ts"

/** The name of an additional key of the channel. */
export const beside = (channel: string, ...words: ReadonlyArray<string>): string =>
  // several channels may share the tag, so the name holds the channel too
  `{${tagOf(channel)}}:millrace:${[channel, ...words].map((word) => encodeURIComponent(word)).join(":")}`
