import { assert, describe, it } from "@effect/vitest"
import { Claims, ClaimStore } from "@millrace/claims"
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
  Replays,
  Subscription
} from "@millrace/core"
import { Encryption, Keys } from "@millrace/crypto"
import { Effect, Exit, Fiber, Layer, pipe, Redacted, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { around, bytesOf, decode, encode, failureOf, fieldsOf, referenceOf } from "./support.ts"

const Document = Schema.Struct({ id: Schema.String, text: Schema.String })
const document = { id: "a", text: "x".repeat(5000) }
const codec = PayloadCodec.through(Channel.json, [Claims.transform({ threshold: 1000 })])
const Documents = Channel.make("documents", { payload: Document, codec })
const memory = MemoryBroker.layer({ partitions: 1 })
const settle = TestClock.adjust("1 minute")

const claims = Claims.transform({ threshold: 1000 })

/** A store whose faults are switched on, and which counts its calls. */
const faulty = () => {
  const state = { isDown: false, isClosed: false, isSilent: false, isEmpty: false, reads: 0, keys: new Array<string>() }
  const down = new ClaimStore.ClaimStoreUnavailable({ message: "it is down" })
  const layer = Layer.effect(
    ClaimStore.Store,
    Effect.map(ClaimStore.Store, (inner) => {
      const through = <A>(effect: Effect.Effect<A, ClaimStore.ClaimStoreUnavailable>) =>
        Effect.suspend(() => state.isDown ? Effect.fail(down) : state.isSilent ? Effect.never : effect)
      return {
        ...inner,
        write: (key: string, body: Uint8Array) => {
          state.keys.push(key)
          return through(inner.write(key, body))
        },
        open: (key: string, offset: number) =>
          Effect.suspend(() => state.isDown || state.isClosed ? Effect.fail(down) : inner.open(key, offset)),
        read: (key: string, most: number) => {
          state.reads++
          return through(Effect.suspend(() => state.isEmpty ? Effect.undefined : inner.read(key, most)))
        }
      }
    })
  ).pipe(Layer.provide(ClaimStore.layerMemory({ name: "s" })))
  return { state, layer }
}

const received = <P, R>(channel: Channel.Channel<P, never, never, R>) =>
  Effect.gen(function*() {
    const seen: Array<Message<P>> = []
    const subscription = Subscription.make(
      channel,
      { group: "g", name: "n" },
      pipe((message: Message<P>) => Effect.sync(() => void seen.push(message)), Decode.middleware(channel))
    )
    yield* Subscription.run(subscription)
    return { seen, subscription }
  })

const letters = (channel: string) => Effect.map(Stream.runCollect(DeadLetters.list(channel)), (all) => Array.from(all))

describe("Claims.transform", () => {
  it.effect("X13 leaves bodies up to the threshold in the message, and asks no store for them", () =>
    Effect.gen(function*() {
      for (const size of [0, 1, 1000]) {
        const body = bytesOf(size)
        const encoded = claims.encode(body, around())
        assert.isTrue(Exit.isExit(encoded), "it suspends")
        assert.deepStrictEqual(yield* encoded, { bytes: body })
        const decoded = claims.decode(body, around())
        assert.isTrue(Exit.isExit(decoded), "it suspends")
        assert.strictEqual(yield* decoded, body)
      }
    }).pipe(Effect.provide(faulty().layer)))

  it.effect("X13 writes a larger body once under day, channel and digest, and the message refers to it", () => {
    const { layer, state } = faulty()
    return Effect.gen(function*() {
      yield* TestClock.setTime(Date.UTC(2026, 11, 1, 12))
      const body = bytesOf(1001)
      const encoded = yield* encode(claims, body)
      const reference = referenceOf(encoded)
      assert.match(reference.key, /^2026-12-01\/[0-9a-f]{32}-[0-9a-f]{64}$/)
      assert.strictEqual(reference.key.slice(-64), reference.sha256)
      assert.deepInclude(reference, { store: "s", size: 1001, time: Date.UTC(2026, 11, 1, 12) })
      assert.isBelow(encoded.bytes.length, 350)
      assert.deepStrictEqual(yield* decode(claims, encoded), body)
      assert.deepStrictEqual((yield* encode(claims, body)).bytes, encoded.bytes)
      assert.strictEqual(new Set(state.keys).size, 1)
      const other = yield* encode(claims, body, around({}, { channel: "others" }))
      assert.notStrictEqual(referenceOf(other).key, reference.key)
    }).pipe(Effect.provide(layer))
  })

  it.effect("X13 refuses references to other stores, channels, paths and addresses without asking the store", () => {
    const { layer, state } = faulty()
    return Effect.gen(function*() {
      const encoded = yield* encode(claims, bytesOf(2000))
      const reference = referenceOf(encoded)
      const forged = (fields: object, version = "1") => ({
        bytes: new TextEncoder().encode(JSON.stringify({ ...reference, ...fields })),
        headers: { "millrace-claim": version }
      })
      const day = reference.key.slice(0, 11)
      const refused = (fields: object) => failureOf(decode(claims, forged(fields)))
      for (const store of ["other", "", "s/../other", "https://evil.example/s"]) {
        assert.deepStrictEqual(yield* refused({ store }), ["poison", "ClaimForeign"])
      }
      const name = reference.key.slice(11)
      for (
        const key of [
          "",
          "../../etc/passwd",
          `${day}../../../etc/passwd`,
          `../${reference.key}`,
          `/${reference.key}`,
          `${day}./${name}`,
          `https://evil.example/${reference.key}`,
          `//evil.example/${reference.key}`,
          `${reference.key}?versionId=1`,
          `${reference.key}#`,
          `${reference.key}\n`,
          `${reference.key}%2f..`,
          `${reference.key}\0`,
          reference.key.toUpperCase(),
          // of another channel
          `${day}${"0".repeat(32)}-${reference.sha256}`,
          // of another digest
          `${day}${name.slice(0, 33)}${"0".repeat(64)}`
        ]
      ) assert.deepStrictEqual(yield* refused({ key }), ["poison", "ClaimForeign"], JSON.stringify(key))
      for (
        const fields of [
          { size: -1 },
          { size: 1.5 },
          { size: "2000" },
          { size: 2 ** 60 },
          { sha256: "0" },
          { sha256: reference.sha256.toUpperCase() },
          { time: "now" },
          { time: -1 },
          { key: 7 },
          { store: null },
          { more: "x".repeat(1024) }
        ]
      ) assert.deepStrictEqual(yield* refused(fields), ["poison", "ClaimInvalid"], JSON.stringify(fields))
      for (const text of ["", "null", "[]", "7", "{", "{\"__proto__\":1}", "\u{0}"]) {
        const bytes = new TextEncoder().encode(text)
        assert.deepStrictEqual(
          yield* failureOf(decode(claims, { bytes, headers: { "millrace-claim": "1" } })),
          ["poison", "ClaimInvalid"]
        )
      }
      assert.deepStrictEqual(yield* failureOf(decode(claims, forged({}, "2"))), ["poison", "ClaimInvalid"])
      assert.deepStrictEqual(
        yield* failureOf(decode(claims, encoded, { channel: "others" })),
        ["poison", "ClaimForeign"]
      )
      assert.strictEqual(state.reads, 0)
      // a length and a digest that lie are found in the body
      assert.deepStrictEqual(yield* refused({ size: 1999 }), ["poison", "ClaimCorrupt"])
      assert.deepStrictEqual(yield* refused({ size: 2001 }), ["poison", "ClaimCorrupt"])
      assert.deepStrictEqual(yield* decode(claims, forged({})), bytesOf(2000))
    }).pipe(Effect.provide(layer))
  })

  it.effect("X13 reads and publishes no body above maximumBytes", () => {
    const { layer, state } = faulty()
    return Effect.gen(function*() {
      const small = Claims.transform({ threshold: 1000, maximumBytes: 1999 })
      assert.deepStrictEqual(yield* failureOf(encode(small, bytesOf(2000))), ["validation", "ClaimTooLarge"])
      const encoded = yield* encode(claims, bytesOf(2000))
      assert.deepStrictEqual(yield* failureOf(decode(small, encoded)), ["poison", "ClaimTooLarge"])
      assert.strictEqual(state.reads, 0)
      assert.lengthOf(yield* decode(small, yield* encode(claims, bytesOf(1999))), 1999)
    }).pipe(Effect.provide(layer))
  })

  it.effect("X13 refuses a publish whose header is that of references", () =>
    Effect.gen(function*() {
      const taken = around({ "millrace-claim": "1" })
      assert.deepStrictEqual(yield* failureOf(encode(claims, bytesOf(1), taken)), ["validation", "HeaderTaken"])
      assert.deepStrictEqual(yield* failureOf(encode(claims, bytesOf(2000), taken)), ["validation", "HeaderTaken"])
    }).pipe(Effect.provide(faulty().layer)))

  it.effect("X13 a store that is down or silent is a dependency, and so is a body that is not there yet", () => {
    const { layer, state } = faulty()
    return Effect.gen(function*() {
      const quick = Claims.transform({ threshold: 1000, timeout: "1 second", grace: "1 minute" })
      const encoded = yield* encode(quick, bytesOf(2000))
      state.isDown = true
      assert.deepStrictEqual(yield* failureOf(encode(quick, bytesOf(2000))), ["dependency", "ClaimStoreUnavailable"])
      assert.deepStrictEqual(yield* failureOf(decode(quick, encoded)), ["dependency", "ClaimStoreUnavailable"])
      state.isDown = false
      state.isSilent = true
      const waiting = yield* Effect.forkChild(
        Effect.all([failureOf(encode(quick, bytesOf(2000))), failureOf(decode(quick, encoded))], { concurrency: 2 })
      )
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* Fiber.join(waiting)).flat(), [
        "dependency",
        "ClaimStoreUnavailable",
        "dependency",
        "ClaimStoreUnavailable"
      ])
      state.isSilent = false
      state.isEmpty = true
      assert.deepStrictEqual(yield* failureOf(decode(quick, encoded)), ["dependency", "ClaimMissing"])
      yield* TestClock.adjust("58 seconds")
      assert.deepStrictEqual(yield* failureOf(decode(quick, encoded)), ["dependency", "ClaimMissing"])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* failureOf(decode(quick, encoded)), ["permanent", "ClaimMissing"])
      // a time in the future gives no longer grace
      const forged = { ...referenceOf(encoded), time: Date.UTC(2100, 0) }
      const bytes = new TextEncoder().encode(JSON.stringify(forged))
      assert.deepStrictEqual(yield* failureOf(decode(quick, { ...encoded, bytes })), ["permanent", "ClaimMissing"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("X13 reads pointers of Amazon's extended client, in one bucket and under one prefix", () =>
    Effect.gen(function*() {
      const store = yield* ClaimStore.Store
      const sqs = Claims.transform({ sqs: { bucket: "bodies", prefix: "large/" } })
      const body = bytesOf(3000)
      yield* store.write("2f1b-44", body)
      const pointer = (fields: object, name = "software.amazon.payloadoffloading.PayloadS3Pointer") =>
        new TextEncoder().encode(JSON.stringify([name, fields]))
      const good = { s3BucketName: "bodies", s3Key: "large/2f1b-44" }
      const read = (bytes: Uint8Array, fields: Record<string, string>) =>
        Effect.suspend(() => sqs.decode(bytes, around({}, { fields: fieldsOf(fields) })))
      for (const name of ["ExtendedPayloadSize", "SQSLargePayloadSize"]) {
        assert.deepStrictEqual(yield* read(pointer(good), { [name]: "3000" }), body)
      }
      const shaded = pointer(good, "com.example.shaded.software.amazon.payloadoffloading.PayloadS3Pointer")
      assert.deepStrictEqual(yield* read(shaded, { SQSLargePayloadSize: "3000" }), body)
      // without the attribute it is a body, and by default it always is
      assert.deepStrictEqual(yield* read(pointer(good), {}), pointer(good))
      assert.deepStrictEqual(
        yield* Effect.suspend(() => claims.decode(pointer(good), around({ SQSLargePayloadSize: "3000" }))),
        pointer(good)
      )
      const mark = { SQSLargePayloadSize: "3000" }
      for (
        const wrong of [
          { ...good, s3BucketName: "other" },
          { ...good, s3Key: "2f1b-44" },
          { ...good, s3Key: "large/../2f1b-44" },
          { ...good, s3Key: "large//2f1b-44" },
          { ...good, s3Key: "large/." },
          { ...good, s3Key: "large/https://evil.example" }
        ]
      ) assert.deepStrictEqual(yield* failureOf(read(pointer(wrong), mark)), ["poison", "ClaimForeign"])
      for (const bytes of [pointer({}), pointer(good, "other"), bytesOf(10), new TextEncoder().encode("[]")]) {
        assert.deepStrictEqual(yield* failureOf(read(bytes, mark)), ["poison", "ClaimInvalid"])
      }
      assert.deepStrictEqual(yield* failureOf(read(pointer(good), { SQSLargePayloadSize: "x" })), [
        "poison",
        "ClaimInvalid"
      ])
      for (const value of [null, Uint8Array.of(0xff)]) {
        const odd = around({}, { fields: [["ExtendedPayloadSize", value]] })
        assert.deepStrictEqual(
          yield* failureOf(Effect.suspend(() => sqs.decode(pointer(good), odd))),
          ["poison", "ClaimInvalid"]
        )
      }
      assert.deepStrictEqual(yield* failureOf(read(pointer(good), { SQSLargePayloadSize: "2999" })), [
        "poison",
        "ClaimCorrupt"
      ])
      const gone = pointer({ ...good, s3Key: "large/none" })
      assert.deepStrictEqual(yield* failureOf(read(gone, mark)), ["dependency", "ClaimMissing"])
    }).pipe(Effect.provide(ClaimStore.layerMemory())))
})

describe("channels with claims", () => {
  it.effect("X13 carry large payloads by reference, and their dead letters and replays too", () => {
    const { layer, state } = faulty()
    return Effect.gen(function*() {
      yield* TestClock.setTime(Date.UTC(2026, 11, 1))
      const { seen, subscription } = yield* received(Documents)
      yield* Replays.run(subscription)
      yield* Publisher.make(Documents).publishAll([document, { id: "b", text: "small" }])
      yield* settle
      assert.deepStrictEqual(seen.map(({ payload }) => payload), [document, { id: "b", text: "small" }])
      assert.isBelow(seen[0]!.raw.length, 400)

      state.isEmpty = true
      yield* Publisher.make(Documents).publish(document)
      yield* TestClock.adjust("4 minutes")
      assert.deepStrictEqual([seen.length, (yield* letters("documents.dead-letters")).length], [2, 0])
      yield* TestClock.adjust("2 minutes")
      const [letter] = yield* letters("documents.dead-letters")
      assert.match(letter?.errorMessage ?? "", /does not have/)
      assert.strictEqual(letter!.delivery.headers["millrace-claim"], "1")
      state.isEmpty = false
      yield* DeadLetters.replay(letter!)
      yield* settle
      assert.deepStrictEqual(seen.map(({ payload }) => payload.id), ["a", "b", "a"])
    }).pipe(Effect.provide([memory, layer]), Effect.scoped)
  })

  it.effect("X13 make no dead letter while the store is down, and publish nothing that refers to no body", () => {
    const { layer, state } = faulty()
    return Effect.gen(function*() {
      const { seen } = yield* received(Documents)
      state.isDown = true
      const failed = yield* Effect.flip(Publisher.make(Documents).publish(document))
      assert.strictEqual(failed._tag, "EncodeError")
      state.isDown = false
      yield* Publisher.make(Documents).publish(document)
      state.isDown = true
      yield* TestClock.adjust("2 hours")
      assert.lengthOf(yield* letters("documents.dead-letters"), 0)
      assert.lengthOf(seen, 0)
      state.isDown = false
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen.map(({ payload }) => payload), [document])
    }).pipe(Effect.provide([memory, layer]), Effect.scoped)
  })

  it.effect("X13 compress, encrypt and store one body, and read it back; a forged reference is a dead letter", () => {
    const { layer, state } = faulty()
    const whole = PayloadCodec.through(Channel.json, [
      Compression.make({ algorithm: "gzip" }),
      Encryption.transform(),
      Claims.transform({ threshold: 200 })
    ])
    const Secrets = Channel.make("secrets", { payload: Document, codec: whole })
    const Others = Channel.make("others", { payload: Document, codec: whole })
    const keys = Keys.layerMemory({ keys: { k: Redacted.make(new Uint8Array(32).fill(7)) }, writing: "k" })
    // compresses to some kilobytes, so the encrypted body goes to the store
    const secret = { id: "s", text: Array.from(bytesOf(3000)).join(" ") }
    return Effect.gen(function*() {
      const { seen } = yield* received(Secrets)
      const others = yield* received(Others)
      yield* Publisher.make(Secrets).publish(secret)
      yield* settle
      const store = yield* ClaimStore.Store
      const stored = yield* store.read(state.keys[0]!, 1e6)
      assert.isBelow(stored!.length, Channel.json.encode(secret).length / 2)
      assert.strictEqual(Buffer.from(stored!).subarray(0, 3).toString(), "MRE")
      assert.deepStrictEqual(seen.map(({ payload }) => payload), [secret])
      const broker = yield* Broker.Broker
      const { headers, raw } = seen[0]!
      yield* broker.publish(new Outgoing("others", raw, undefined, headers))
      yield* settle
      assert.lengthOf(others.seen, 0)
      const [letter] = yield* letters("others.dead-letters")
      assert.match(letter?.errorMessage ?? "", /another channel/)
      assert.deepStrictEqual(letter!.delivery.raw, raw)
    }).pipe(Effect.provide([memory, keys, layer]), Effect.scoped)
  })

  it.effect("X13 hand claims to handlers that read them as streams, and refuse claims of other channels", () => {
    const Videos = Channel.make("videos", { payload: Claims.schema, codec: Claims.codec })
    const Copies = Channel.make("copies", { payload: Claims.schema, codec: Claims.codec })
    const Whole = Channel.bytes("videos", PayloadCodec.through(PayloadCodec.bytes, [claims]))
    const video = bytesOf(10_000)
    return Effect.gen(function*() {
      const { seen } = yield* received(Videos)
      const claim = yield* Claims.put("videos", Stream.make(video.subarray(0, 5), video.subarray(5)))
      yield* Publisher.make(Videos).publish(claim)
      yield* Publisher.make(Videos).publish(yield* Claims.put("videos", video))
      yield* Publisher.make(Whole).publishAll([video, video.subarray(0, 10)])
      yield* settle
      const bodies = yield* Effect.forEach(seen, ({ payload }) => Stream.mkUint8Array(Claims.stream(payload)))
      assert.deepStrictEqual(bodies, [video, video, video, video.subarray(0, 10)])
      assert.deepStrictEqual(seen.map(({ payload }) => payload.size), [10_000, 10_000, 10_000, 10])
      assert.deepStrictEqual(
        yield* Stream.mkUint8Array(Claims.stream(seen[3]!.payload, { offset: 8 })),
        video.subarray(8, 10)
      )
      const error = yield* Effect.flip(Publisher.make(Copies).publish(claim))
      assert.match(error.message, /put a copy/)
      const copy = yield* Claims.put("copies", Claims.stream(claim))
      yield* Publisher.make(Copies).publish(copy)
      const elsewhere = yield* Effect.flip(
        Effect.provide(Stream.runDrain(Claims.stream(claim)), ClaimStore.layerMemory({ name: "t" }))
      )
      assert.strictEqual(elsewhere._tag, "ClaimForeign")
    }).pipe(Effect.provide([memory, ClaimStore.layerMemory()]), Effect.scoped)
  })

  it.effect("X13 handlers that read or put streams make no dead letter while the store is down", () => {
    const { layer, state } = faulty()
    const Videos = Channel.make("videos", { payload: Claims.schema, codec: Claims.codec })
    const video = bytesOf(3000)
    return Effect.gen(function*() {
      let seen = 0
      const handler = ({ payload }: Message<Claims.Claim>) =>
        Effect.gen(function*() {
          yield* Claims.put("copies", video)
          seen += (yield* Stream.mkUint8Array(Claims.stream(payload))).length
        })
      yield* Subscription.run(Subscription.make(
        Videos,
        { group: "g", name: "n" },
        pipe(handler, Decode.middleware(Videos))
      ))
      const claim = yield* Claims.put("videos", video)
      state.isDown = true
      yield* Publisher.make(Videos).publish(claim)
      yield* TestClock.adjust("1 hour")
      state.isDown = false
      state.isClosed = true
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(yield* letters("videos.dead-letters"), 0)
      assert.strictEqual(seen, 0)
      state.isClosed = false
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(seen, 3000)
    }).pipe(Effect.provide([memory, layer]), Effect.scoped)
  })

  it.effect("X13 a stream that goes on after its length ends at once", () => {
    let pulled = 0
    const endless = Layer.effect(
      ClaimStore.Store,
      Effect.map(ClaimStore.Store, (inner) => ({
        ...inner,
        open: () =>
          Effect.succeed(Stream.fromEffectRepeat(Effect.sync(() => {
            pulled++
            return bytesOf(1000)
          })))
      }))
    ).pipe(Layer.provide(ClaimStore.layerMemory()))
    return Effect.gen(function*() {
      const claim = yield* Claims.put("videos", bytesOf(2500))
      const error = yield* Effect.flip(Stream.runDrain(Claims.stream(claim)))
      assert.strictEqual(error._tag, "ClaimCorrupt")
      assert.isBelow(pulled, 5)
    }).pipe(Effect.timeout("5 seconds"), Effect.provide(endless))
  })

  it("X13 need a store: a publisher without one does not compile", () => {
    const publish = Effect.provide(Publisher.make(Documents).publish(document), memory)
    // @ts-expect-error ClaimStore is missing
    // @effect-diagnostics-next-line missingEffectContext:off
    const incomplete: Effect.Effect<void, unknown> = publish
    const complete: Effect.Effect<void, unknown> = Effect.provide(publish, ClaimStore.layerMemory())
    assert.isTrue(Effect.isEffect(incomplete) && Effect.isEffect(complete))
  })
})
