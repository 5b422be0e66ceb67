/** Streams of parts with an exact length: chunks of a table, parts of an upload. */
import { Stream } from "effect"

/** Regroups bytes into parts of `size`, the last of which may be shorter; holds one part in memory. */
export const rechunk =
  (size: number) => <E, R>(self: Stream.Stream<Uint8Array, E, R>): Stream.Stream<Uint8Array, E, R> =>
    Stream.suspend(() => {
      let part = new Uint8Array(size)
      let filled = 0
      return Stream.mapAccum(self, () => undefined, (_, bytes: Uint8Array) => {
        const full: Array<Uint8Array> = []
        for (let at = 0; at < bytes.length;) {
          const taken = Math.min(size - filled, bytes.length - at)
          part.set(bytes.subarray(at, at + taken), filled)
          filled += taken
          at += taken
          if (filled === size) {
            full.push(part)
            part = new Uint8Array(size)
            filled = 0
          }
        }
        return [undefined, full] as const
      }, { onHalt: () => filled === 0 ? [] : [part.subarray(0, filled)] })
    })
