/**
 * Compression of bodies by `content-encoding`: gzip, Brotli and Zstandard of Node, bounded on the way in.
 */
import { OptionCheck, PayloadCodec } from "@millrace/core"
import { Effect, Exit } from "effect"
import { coders, type Coding, codingOf } from "./internal/codings.ts"

/** The algorithms that bodies are compressed with. */
export type Algorithm = "gzip" | "brotli" | "zstd"

/** Options of `make`. */
export interface Options {
  /** The algorithm of bodies that are published; all three are read. Default: `zstd`. */
  readonly algorithm?: Algorithm | undefined
  /** The fewest bytes that are compressed; shorter bodies are published as they are. Default: 1,024. */
  readonly from?: number | undefined
  /**
   * How hard the algorithm tries: `gzip` 1 to 9 (default 6), `brotli` 1 to 11 (default 4), `zstd` 1 to 19 (default 3).
   */
  readonly level?: number | undefined
  /** The most bytes that a compressed body may have when it is restored. Default: 16 MiB. */
  readonly maximumBytes?: number | undefined
  /** The most bytes that one byte of a compressed body may become. Default: 100. */
  readonly maximumRatio?: number | undefined
}

/** The defaults of the options. */
export const defaults = {
  algorithm: "zstd",
  from: 1024,
  level: { gzip: 6, brotli: 4, zstd: 3 },
  maximumBytes: 16 * 1024 * 1024,
  maximumRatio: 100
} as const

const highest = { gzip: 9, brotli: 11, zstd: 19 } as const

const codec = "compression"

const unknown = (named: string) =>
  Exit.fail(PayloadCodec.poison({
    codec,
    reason: "CodingUnknown",
    message: `The content-encoding is none of gzip, br, zstd and identity (${named.length} characters)`
  }))

const taken = Exit.fail(PayloadCodec.validation({
  codec,
  reason: "CodingTaken",
  message: "The publisher has set content-encoding, which the compression sets: leave that header out"
}))

/**
 * Makes the transform that compresses bodies and sets `content-encoding`, and restores them by that header.
 *
 * A body stays as it is, without the header, if it is shorter than `from`, if compressing makes it no smaller, or if a reader
 * with the same limits would refuse it. Bodies without the header are read as they are, so a channel can start to compress at
 * any time: readers first, then publishers.
 *
 * Fails with a `PayloadError` of class `poison` if the header names another coding, the bytes are corrupt, cut off or followed
 * by others, or the body exceeds `maximumBytes` or `maximumRatio`; it is refused before more than that was restored. The window
 * of Zstandard is bounded by 8 MiB, as RFC 9659 asks.
 *
 * Do not compress channels whose bodies mix text of an attacker with secrets, also not before encryption: the length of the
 * body tells whether both are alike.
 *
 * **Example** (orders from 2 KiB on, by gzip)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Channel, PayloadCodec } from "@millrace/core"
 * import { Compression } from "@millrace/codecs"
 *
 * const Order = Schema.Struct({ id: Schema.String, lines: Schema.Array(Schema.String) })
 * const Orders = Channel.make("orders", {
 *   payload: Order,
 *   codec: PayloadCodec.through(Channel.json, [Compression.make({ algorithm: "gzip", from: 2048 })])
 * })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const make = (options: Options = {}): PayloadCodec.Transform<never, "compress"> => {
  const check = OptionCheck.make("Compression")
  const algorithm = check.oneOf("algorithm", options.algorithm ?? defaults.algorithm, ["gzip", "brotli", "zstd"])
  const from = check.count("from", options.from ?? defaults.from)
  const level = check.count("level", options.level ?? defaults.level[algorithm], { most: highest[algorithm] })
  const maximumBytes = check.count("maximumBytes", options.maximumBytes ?? defaults.maximumBytes)
  const maximumRatio = check.count("maximumRatio", options.maximumRatio ?? defaults.maximumRatio)
  const coding: Coding = algorithm === "brotli" ? "br" : algorithm
  const headers = { "content-encoding": coding }
  const compress = coders[coding].compress(level)
  return {
    name: algorithm,
    stage: "compress",
    encode: (bytes, metadata) => {
      if (codingOf(metadata.headers) !== "identity") return taken
      if (bytes.length < from || bytes.length > maximumBytes) return Exit.succeed({ bytes })
      return Effect.mapEager(
        compress(bytes),
        (compressed) =>
          compressed.length >= bytes.length || bytes.length > compressed.length * maximumRatio
            ? { bytes }
            : { bytes: compressed, headers }
      )
    },
    decode: (bytes, metadata) => {
      const named = codingOf(metadata.headers)
      if (named === "identity") return Exit.succeed(bytes)
      if (!Object.hasOwn(coders, named)) return unknown(named)
      return coders[named as Coding].restore(bytes, Math.min(maximumBytes, bytes.length * maximumRatio))
    }
  }
}
