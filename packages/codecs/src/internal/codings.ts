/**
 * Content codings by node:zlib: at once for short bodies, in a thread for long ones.
 */
import { type Headers, PayloadCodec } from "@millrace/core"
import { Effect, Exit } from "effect"
import * as zlib from "node:zlib"

/** The codings of `content-encoding` that bodies are compressed with. */
export type Coding = "gzip" | "br" | "zstd"

/** Returns the coding that headers name, in lower case; `identity` without one. */
export const codingOf = (headers: Headers.Headers): string => {
  const named = headers["content-encoding"]?.trim().toLowerCase()
  return named === undefined || named === "" ? "identity" : named === "x-gzip" ? "gzip" : named
}

/** Longer bodies are compressed in a thread, which costs about as much as compressing this many bytes. */
const longest = 64 * 1024

/** Longer compressed bodies are restored in a thread: they may become a hundred times as long. */
const longestCompressed = 16 * 1024

/** What node:zlib answers with the option `info`. */
interface Restored {
  readonly buffer: Uint8Array
  readonly engine: { readonly bytesWritten: number }
}

interface Sync {
  (bytes: Uint8Array, options: zlib.ZlibOptions & zlib.BrotliOptions & zlib.ZstdOptions): Uint8Array
}

interface Async {
  (
    bytes: Uint8Array,
    options: zlib.ZlibOptions & zlib.BrotliOptions & zlib.ZstdOptions,
    callback: (error: Error | null, result: Uint8Array) => void
  ): void
}

/** Compresses and restores by one coding. */
export interface Coder {
  readonly compress: (level: number) => (bytes: Uint8Array) => Effect.Effect<Uint8Array, PayloadCodec.PayloadError>
  /** Restores at most so many bytes. */
  readonly restore: (bytes: Uint8Array, most: number) => Effect.Effect<Uint8Array, PayloadCodec.PayloadError>
}

const failed = (coding: Coding, cause: unknown): PayloadCodec.PayloadError =>
  PayloadCodec.permanent({ codec: coding, cause, message: `The body could not be compressed by ${coding}` })

const refused = (coding: Coding, bytes: Uint8Array, most: number, cause: unknown): PayloadCodec.PayloadError => {
  const isTooLong = cause instanceof Error && "code" in cause && cause.code === "ERR_BUFFER_TOO_LARGE"
  return PayloadCodec.poison({
    codec: coding,
    cause,
    reason: isTooLong ? "TooLarge" : "Corrupt",
    message: isTooLong
      ? `The body (${bytes.length} bytes of ${coding}) would become more than ${most} bytes: raise maximumBytes or maximumRatio of the compression if its publisher is trusted`
      : `The body (${bytes.length} bytes) is not ${coding}, as its content-encoding says`
  })
}

const coder = (
  coding: Coding,
  [compressSync, compressAsync, restoreSync, restoreAsync]: readonly [Sync, Async, Sync, Async],
  atLevel: (level: number) => zlib.ZlibOptions & zlib.BrotliOptions & zlib.ZstdOptions,
  within: zlib.ZstdOptions
): Coder => {
  const whole = (
    bytes: Uint8Array,
    most: number,
    answer: unknown
  ): Exit.Exit<Uint8Array, PayloadCodec.PayloadError> => {
    // the option `info` adds the engine, which tells how many bytes it has read
    const { buffer, engine } = answer as Restored
    return engine.bytesWritten === bytes.length
      ? Exit.succeed(buffer)
      : Exit.fail(refused(coding, bytes, most, new Error("there are more bytes behind the body")))
  }
  return {
    compress: (level) => {
      const options = atLevel(level)
      return (bytes) => {
        if (bytes.length <= longest) return Exit.succeed(compressSync(bytes, options))
        return Effect.callback((resume) => {
          compressAsync(
            bytes,
            options,
            (cause, compressed) => resume(cause === null ? Exit.succeed(compressed) : Exit.fail(failed(coding, cause)))
          )
        })
      }
    },
    restore: (bytes, most) => {
      const options = { ...within, maxOutputLength: Math.max(1, most), info: true }
      if (bytes.length <= longestCompressed) {
        try {
          return whole(bytes, most, restoreSync(bytes, options))
        } catch (cause) {
          return Exit.fail(refused(coding, bytes, most, cause))
        }
      }
      return Effect.callback((resume) => {
        restoreAsync(
          bytes,
          options,
          (cause, answer) =>
            resume(cause === null ? whole(bytes, most, answer) : Exit.fail(refused(coding, bytes, most, cause)))
        )
      })
    }
  }
}

const { constants } = zlib

/** The coder of each coding. */
export const coders: { readonly [Name in Coding]: Coder } = {
  gzip: coder("gzip", [zlib.gzipSync, zlib.gzip, zlib.gunzipSync, zlib.gunzip], (level) => ({ level }), {}),
  br: coder(
    "br",
    [zlib.brotliCompressSync, zlib.brotliCompress, zlib.brotliDecompressSync, zlib.brotliDecompress],
    (level) => ({ params: { [constants.BROTLI_PARAM_QUALITY]: level } }),
    {}
  ),
  zstd: coder(
    "zstd",
    [zlib.zstdCompressSync, zlib.zstdCompress, zlib.zstdDecompressSync, zlib.zstdDecompress],
    (level) => ({ params: { [constants.ZSTD_c_compressionLevel]: level } }),
    // a frame of a few bytes may ask for a window of gigabytes; RFC 9659 bounds it by 8 MiB
    { params: { [constants.ZSTD_d_windowLogMax]: 23 } }
  )
}
