/**
 * Names of the keys that belong to one channel. All of them share the channel's hash tag, so wherever a cluster or a proxy
 * divides keys by it, they are at one place.
 */

/** The part of a name that Redis Cluster hashes: what stands in its first braces, or all of it. */
const tagOf = (channel: string): string => {
  const open = channel.indexOf("{")
  const close = channel.indexOf("}", open + 1)
  return open >= 0 && close > open + 1 ? channel.slice(open + 1, close) : channel
}

/** A key beside that of the channel. */
export const beside = (channel: string, ...words: ReadonlyArray<string>): string =>
  // the tag alone may be shared by several channels
  `{${tagOf(channel)}}:millrace:${[channel, ...words].map((word) => encodeURIComponent(word)).join(":")}`
