import { assert, describe, it } from "@effect/vitest"
import { Compression } from "@millrace/codecs"
import {
  Broker,
  Channel,
  DeadLetters,
  Decode,
  MemoryBroker,
  type Message,
  Outgoing,
  PayloadCodec,
  Publisher,
  Subscription
} from "@millrace/core"
import { Effect, Exit, pipe, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { once } from "node:events"
import * as zlib from "node:zlib"

const algorithms = ["gzip", "brotli", "zstd"] as const
const codings = { gzip: "gzip", brotli: "br", zstd: "zstd" } as const

const metadata = (headers: { readonly [name: string]: string } = {}): PayloadCodec.Metadata => ({
  system: "memory",
  channel: "orders",
  key: undefined,
  keyBytes: undefined,
  headers,
  fields: [],
  attempt: 1,
  timestamp: undefined
})

const through = (compression: ReturnType<typeof Compression.make>, bytes: Uint8Array) =>
  Effect.flatMap(
    compression.encode(bytes, metadata()),
    (encoded) =>
      Effect.map(compression.decode(encoded.bytes, metadata(encoded.headers)), (back) => ({ ...encoded, back }))
  )

const text = (length: number) => new Uint8Array(length).map((_, i) => 97 + (i * i) % 23)

const restore = (bytes: Uint8Array, coding: string, options: Compression.Options = {}) =>
  Effect.flip(Compression.make(options).decode(bytes, metadata({ "content-encoding": coding })))

/** One GiB of zeros, by a stream. */
const bomb = async (stream: zlib.BrotliCompress) => {
  const parts: Array<Uint8Array> = []
  stream.on("data", (part: Uint8Array) => parts.push(part))
  const zeros = new Uint8Array(16 * 1024 * 1024)
  for (let i = 0; i < 64; i++) if (!stream.write(zeros)) await once(stream, "drain")
  stream.end()
  await once(stream, "end")
  return Buffer.concat(parts)
}

/** Bodies that do not compress, and bodies that repeat. */
const bodies = fc.oneof(
  fc.uint8Array({ maxLength: 4096 }),
  fc.tuple(fc.uint8Array({ minLength: 1, maxLength: 8 }), fc.integer({ min: 1, max: 40_000 })).map(([part, times]) =>
    new Uint8Array(Math.min(200_000, part.length * times)).map((_, i) => part[i % part.length]!)
  )
)

describe("Compression", () => {
  for (const algorithm of algorithms) {
    it(`F10 ${algorithm} restores every body, and never makes it longer`, () =>
      fc.assert(
        fc.asyncProperty(bodies, async (bytes) => {
          const { back, bytes: out, headers } = await Effect.runPromise(
            through(Compression.make({ algorithm, from: 1 }), bytes)
          )
          assert.deepStrictEqual(new Uint8Array(back), bytes)
          assert.isAtMost(out.length, bytes.length)
          if (headers === undefined) assert.strictEqual(out, bytes)
          else assert.deepStrictEqual(headers, { "content-encoding": codings[algorithm] })
        }),
        { numRuns: 40 }
      ))

    it.effect(`F10 ${algorithm} of a short body is an Exit, of a long one runs in a thread`, () =>
      Effect.gen(function*() {
        const compression = Compression.make({ algorithm, level: 1 })
        const short = compression.encode(text(2000), metadata())
        assert.isTrue(Exit.isExit(short))
        const { back } = yield* through(compression, text(3_000_000))
        assert.deepStrictEqual(new Uint8Array(back), text(3_000_000))
        assert.isFalse(Exit.isExit(compression.encode(text(3_000_000), metadata())))
      }))

    it.effect(`F10 ${algorithm} cut off at every length, followed by bytes, or with a changed byte, is poison or unchanged`, () =>
      Effect.gen(function*() {
        const bytes = text(2000)
        const compression = Compression.make({ algorithm })
        const { bytes: out } = yield* compression.encode(bytes, metadata())
        const coding = codings[algorithm]
        for (let i = 0; i < out.length; i++) {
          assert.deepInclude(yield* restore(out.slice(0, i), coding), { failure: "poison", reason: "Corrupt" })
        }
        for (const tail of [[0xff], [0, 1], Array.from(out.slice(0, 5))]) {
          assert.strictEqual((yield* restore(Uint8Array.from([...out, ...tail]), coding)).failure, "poison")
        }
        for (let i = 0; i < out.length * 8; i++) {
          const changed = out.slice()
          changed[i >> 3]! ^= 1 << (i & 7)
          const exit = yield* Effect.exit(compression.decode(changed, metadata({ "content-encoding": coding })))
          // without a checksum, as in Brotli, a change may pass
          if (Exit.isSuccess(exit)) assert.isAtMost(exit.value.length, changed.length * 100)
        }
      }))

    it.effect(`F10 ${algorithm} bombs are refused by ratio and by size`, () =>
      Effect.gen(function*() {
        const zeros = new Uint8Array(32 * 1024 * 1024)
        const bytes = algorithm === "gzip"
          ? zlib.gzipSync(zeros)
          : algorithm === "brotli"
          ? zlib.brotliCompressSync(zeros, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 5 } })
          : zlib.zstdCompressSync(zeros)
        const coding = codings[algorithm]
        assert.deepInclude(yield* restore(bytes, coding), { failure: "poison", reason: "TooLarge" })
        const trusting = { maximumRatio: 10_000_000 }
        assert.deepInclude(yield* restore(bytes, coding, trusting), { failure: "poison", reason: "TooLarge" })
        const whole = yield* Compression.make({ ...trusting, maximumBytes: zeros.length })
          .decode(bytes, metadata({ "content-encoding": coding }))
        assert.strictEqual(whole.length, zeros.length)
        // its own publisher sends no body that its reader would refuse
        const own = yield* Compression.make({ algorithm, maximumBytes: zeros.length }).encode(zeros, metadata())
        assert.deepStrictEqual(own, { bytes: zeros })
      }))
  }

  it.effect("F10 1 GiB in 1 KiB restores at most a hundred times its own size", () =>
    Effect.gen(function*() {
      const bytes = yield* Effect.promise(() =>
        bomb(zlib.createBrotliCompress({
          params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 5, [zlib.constants.BROTLI_PARAM_LGWIN]: 24 }
        }))
      )
      assert.isBelow(bytes.length, 2048)
      const before = process.memoryUsage.rss()
      assert.deepInclude(yield* restore(bytes, "br"), { failure: "poison", reason: "TooLarge" })
      assert.isBelow(process.memoryUsage.rss() - before, 64 * 1024 * 1024)
    }), 60_000)

  it.effect("F10 a frame of Zstandard that asks for a window of gigabytes is refused", () =>
    Effect.gen(function*() {
      // a frame header with a window of 2^31 bytes (RFC 8878, 3.1.1.1.2)
      const frame = Uint8Array.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00])
      assert.deepInclude(yield* restore(frame, "zstd"), { failure: "poison", reason: "Corrupt" })
    }))

  it.effect("F10 short bodies and bodies without the header are as they are; other codings are poison", () =>
    Effect.gen(function*() {
      const compression = Compression.make()
      const short = text(1023)
      assert.deepStrictEqual(yield* compression.encode(short, metadata()), { bytes: short })
      assert.property(yield* compression.encode(text(1024), metadata()), "headers")
      for (const headers of [{}, { "content-encoding": "" }, { "content-encoding": "Identity" }] as const) {
        assert.strictEqual(yield* compression.decode(short, metadata({ ...headers })), short)
      }
      for (const coding of ["deflate", "gzip, br", "constructor", "aes128gcm", "x".repeat(65_536)]) {
        const error = yield* restore(short, coding)
        assert.deepInclude(error, { failure: "poison", reason: "CodingUnknown" })
        assert.isBelow(error.message.length, 200)
      }
      const zipped = yield* Compression.make().decode(
        zlib.gzipSync(short),
        metadata({ "content-encoding": " X-GZIP " })
      )
      assert.deepStrictEqual(new Uint8Array(zipped), short)
      const taken = yield* Effect.flip(compression.encode(text(5000), metadata({ "content-encoding": "gzip" })))
      assert.deepInclude(taken, { failure: "validation", reason: "CodingTaken" })
    }))

  it.effect("F10 a channel compresses on the way out, and a bomb is a dead letter with its bytes", () =>
    Effect.gen(function*() {
      const Order = Schema.Struct({ lines: Schema.Array(Schema.String) })
      const Orders = Channel.make("orders", {
        payload: Order,
        codec: PayloadCodec.through(Channel.json, [Compression.make()])
      })
      const seen: Array<Message<typeof Order.Type>> = []
      yield* Subscription.run(Subscription.make(
        Orders,
        { group: "billing", name: "bill" },
        pipe(
          (message: Message<typeof Order.Type>) => Effect.sync(() => void seen.push(message)),
          Decode.middleware(Orders)
        )
      ))
      const order = { lines: Array.from({ length: 500 }, (_, i) => `line ${i}`) }
      yield* Publisher.make(Orders).publish(order)
      const broker = yield* Broker.Broker
      const bomb = zlib.zstdCompressSync(new Uint8Array(4_000_000))
      yield* broker.publish(new Outgoing("orders", bomb, undefined, { "content-encoding": "zstd" }))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen.map(({ payload }) => payload), [order])
      assert.strictEqual(seen[0]!.headers["content-encoding"], "zstd")
      assert.isBelow(seen[0]!.raw.length, 3000)
      const [letter] = yield* Stream.runCollect(DeadLetters.list("orders.dead-letters"))
      assert.deepStrictEqual(new Uint8Array(letter!.delivery.raw), new Uint8Array(bomb))
      assert.include(letter!.errorMessage, "maximumRatio")
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 })), Effect.scoped))

  it("F10 wrong options are refused", () => {
    assert.throws(() => Compression.make({ algorithm: "zstd", level: 20 }), RangeError, "Compression: level")
    assert.throws(() => Compression.make({ algorithm: "gzip", level: 10 }), RangeError, "Compression: level")
    // @ts-expect-error there are three
    assert.throws(() => Compression.make({ algorithm: "deflate" }), RangeError, "Compression: algorithm")
  })
})
