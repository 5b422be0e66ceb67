import { Encryption, Keys } from "@millrace/crypto"
import { associatedData } from "../../packages/crypto/src/internal/associated.ts"
import { encrypt } from "../../packages/crypto/src/internal/body.ts"
import * as DataKey from "../../packages/crypto/src/internal/dataKey.ts"
import { identity } from "../../packages/crypto/src/internal/envelope.ts"
import { Redacted } from "effect"
import * as fc from "fast-check"
import { createSecretKey } from "node:crypto"
import { assert, describe, it } from "vitest"
import { bytesOf, orders, sealed, secretOf, told, within } from "./support.ts"

const refused = new Set<unknown>(["Tampered", "Unencrypted", "KeyUnknown", "KeyRevoked"])

const algorithms = ["aes256Gcm", "xaes256Gcm"] as const

const bodies = fc.uint8Array({ maxLength: 300 })

const contexts: fc.Arbitrary<Encryption.Context> = fc.record({
  channel: fc.string({ unit: "grapheme", minLength: 1, maxLength: 12 }),
  key: fc.option(fc.uint8Array({ maxLength: 8 }), { nil: undefined }),
  contentType: fc.option(fc.constantFrom("application/json", "avro/binary", ""), { nil: undefined }),
  headers: fc.record({ tenant: fc.constantFrom("a", "b", "") }, { requiredKeys: [] })
})

const fields = fc.constantFrom("channel", "key", "contentType", "headers")

/** A context as text: two texts differ if and only if the contexts do. */
const shown = ({ channel, contentType, headers, key }: Encryption.Context): string =>
  JSON.stringify([channel, contentType ?? null, key === undefined ? null : [...key], headers["tenant"] ?? null])

describe.each(algorithms)("envelopes of %s", (algorithm) => {
  const encryption = Encryption.make({ algorithm, bind: ["Tenant"] })

  it("F10 open to the body, in every context, and show nothing of it", () =>
    within(() =>
      fc.assert(fc.property(bodies, contexts, (body, context) => {
        const envelope = sealed(encryption, body, context)
        assert.deepStrictEqual(told(encryption.open(envelope, context)), Buffer.from(body))
        if (body.length >= 4) assert.isFalse(Buffer.from(envelope).includes(Buffer.from(body)))
        // the overhead that the documentation tells: 70 bytes, the key id, nonce and tag
        assert.strictEqual(envelope.length - body.length, 70 + 3 + (algorithm === "aes256Gcm" ? 12 : 24) + 16)
      }))
    ))

  it("F10 open in their own context only", () =>
    within(() =>
      // the second context differs in one field at most
      fc.assert(fc.property(bodies, contexts, contexts, fields, (body, from, other, field) => {
        const to = { ...from, [field]: other[field] }
        const answer = told(encryption.open(sealed(encryption, body, from), to))
        if (shown(from) === shown(to)) assert.deepStrictEqual(answer, Buffer.from(body))
        else assert.strictEqual(answer, "Tampered")
      }))
    ))

  it("F10 are refused at every shorter length, and longer", () =>
    within(() => {
      const envelope = sealed(encryption, bytesOf("{\"amount\":12}"))
      for (let length = 0; length < envelope.length; length++) {
        assert.include(refused, told(encryption.open(envelope.subarray(0, length), orders)), String(length))
      }
      assert.strictEqual(told(encryption.open(Buffer.concat([envelope, Buffer.alloc(1)]), orders)), "Tampered")
    }))

  it("F10 never repeat a nonce, nor two envelopes of one body", () =>
    within(() => {
      const seen = new Set<string>()
      for (let i = 0; i < 2000; i++) seen.add(Buffer.from(sealed(encryption, bytesOf("x"))).toString("latin1", 73, 89))
      assert.strictEqual(seen.size, 2000)
    }))
})

describe("tampered envelopes", () => {
  // 1,000 by hand, in one to two minutes: MILLRACE_TAMPERED_ENVELOPES=1000
  const count = Number(process.env["MILLRACE_TAMPERED_ENVELOPES"] ?? 150)

  it(`F10 are refused for each changed bit of ${count} envelopes`, { timeout: 240_000 }, () =>
    within(() => {
      for (let i = 0; i < count; i++) {
        const encryption = Encryption.make({ algorithm: algorithms[i % 2] ?? "aes256Gcm" })
        const envelope = Buffer.from(sealed(encryption, Buffer.alloc(i % 24, i)))
        for (let bit = 0; bit < envelope.length * 8; bit++) {
          envelope[bit >> 3]! ^= 1 << (bit & 7)
          const answer = told(encryption.open(envelope, orders))
          if (!refused.has(answer)) assert.fail(`bit ${bit} of envelope ${i}: ${String(answer)}`)
          envelope[bit >> 3]! ^= 1 << (bit & 7)
        }
        assert.instanceOf(told(encryption.open(envelope, orders)), Uint8Array)
      }
    }))

  it("F10 are refused with a nonce of zeros, an unknown version or algorithm, and a key id of no length or no text", () =>
    within(() => {
      const encryption = Encryption.make()
      const changed = (at: number, ...bytes: ReadonlyArray<number>) => {
        const envelope = Buffer.from(sealed(encryption, bytesOf("body")))
        envelope.set(bytes, at)
        return told(encryption.open(envelope, orders))
      }
      assert.strictEqual(changed(73, ...new Array<number>(12).fill(0)), "Tampered")
      assert.strictEqual(changed(3, 2), "Tampered")
      assert.strictEqual(changed(3, 0), "Tampered")
      assert.strictEqual(changed(4, 3), "Tampered")
      assert.strictEqual(changed(5, 0), "Tampered")
      assert.strictEqual(changed(5, 255), "Tampered")
      assert.strictEqual(changed(6, 0xff), "Tampered")
      assert.strictEqual(changed(6, 0x6f, 0x6c, 0x64), "Tampered", "the id of another key")
    }))

  it("F10 never open under a second key: the commitment is checked before the tag", async () => {
    const one = Keys.layerMemory({ keys: { a: secretOf(1) }, writing: "a" })
    const other = Keys.layerMemory({ keys: { a: secretOf(3) }, writing: "a" })
    const encryption = Encryption.make()
    const envelope = await within(() => sealed(encryption, bytesOf("body")), one)
    assert.strictEqual(await within(() => told(encryption.open(envelope, orders)), other), "Tampered")
    // the same secret under another id is another key
    const renamed = Keys.layerMemory({ keys: { a: secretOf(3), b: secretOf(1) }, writing: "a" })
    const claimed = Buffer.from(envelope)
    claimed[6] = "b".charCodeAt(0)
    assert.strictEqual(await within(() => told(encryption.open(claimed, orders)), renamed), "Tampered")
  })

  it("F10 with another commitment are refused, although their tag is right", async () => {
    const data = DataKey.make("aes256Gcm", "new", createSecretKey(Redacted.value(secretOf(1))))
    const header = Buffer.from(data.header)
    const envelopeOf = (made: DataKey.DataKey) =>
      encrypt(made, associatedData(made.header, orders, []), bytesOf("body"))
    header[header.length - 1]! ^= 1
    const [right, wrong] = [envelopeOf(data), envelopeOf({ ...data, header })]
    const open = (envelope: Uint8Array) => within(() => told(Encryption.make().open(envelope, orders)))
    assert.deepStrictEqual(await open(right), Buffer.from("body"))
    assert.strictEqual(await open(wrong), "Tampered")
  })

  it("F10 of one secret under two ids or algorithms have unrelated data keys", () => {
    const secret = createSecretKey(Redacted.value(secretOf(1)))
    const derived = [identity("aes256Gcm", "a"), identity("aes256Gcm", "b"), identity("xaes256Gcm", "a")]
      .map((each) => DataKey.derive(secret, each, new Uint8Array(32)).commitment.toString("hex"))
    assert.strictEqual(new Set(derived).size, 3)
  })

  it("F10 have errors that say no more than the channel", () =>
    within(() => {
      const encryption = Encryption.make()
      const envelope = Buffer.from(sealed(encryption, bytesOf("body")))
      envelope[envelope.length - 1]! ^= 1
      assert.match(
        JSON.stringify(encryption.open(envelope, orders)),
        /"channel":"orders"/
      )
      assert.notMatch(JSON.stringify(encryption.open(envelope, orders)), /customer|body"/)
    }))
})

describe("plaintext", () => {
  const body = bytesOf("{\"amount\":12}")

  it("F10 is refused by default, also when it is empty", () =>
    within(() => {
      for (const each of [body, new Uint8Array(0), bytesOf("MRE"), bytesOf("MR")]) {
        assert.strictEqual(told(Encryption.make().open(each, orders)), "Unencrypted")
      }
    }))

  it("F10 is accepted until the date, and encrypted bodies before and after it", () =>
    within(() => {
      const until = (time: number) => Encryption.make({ plaintext: { acceptUntil: new Date(time) } })
      const now = Date.now()
      assert.strictEqual(told(until(now + 60_000).open(body, orders)), body)
      assert.strictEqual(told(until(now - 1).open(body, orders)), "Unencrypted")
      const envelope = sealed(until(now + 60_000), body)
      assert.deepStrictEqual(told(until(now - 1).open(envelope, orders)), Buffer.from(body))
      assert.deepStrictEqual(told(until(now + 60_000).open(envelope, orders)), Buffer.from(body))
      // a changed envelope is no plaintext
      envelope[envelope.length - 1]! ^= 1
      assert.strictEqual(told(until(now + 60_000).open(envelope, orders)), "Tampered")
    }))

  it("F10 wrong options are refused when built", () => {
    assert.throws(() => Encryption.make({ plaintext: { acceptUntil: new Date(NaN) } }), RangeError, "acceptUntil")
    assert.throws(() => Encryption.make({ bind: [""] }), RangeError, "bind")
    // @ts-expect-error not an algorithm
    assert.throws(() => Encryption.make({ algorithm: "aes128Cbc" }), RangeError, "algorithm")
    // @ts-expect-error not a key of the set
    assert.throws(() => within(() => undefined, Keys.layerMemory({ keys: { a: secretOf(1) }, writing: "b" })))
  })
})

describe("empty bodies", () => {
  it("F10 are encrypted as others", () =>
    within(() => {
      const encryption = Encryption.make()
      const envelope = sealed(encryption, new Uint8Array(0))
      assert.strictEqual(envelope.length, 70 + 3 + 12 + 16)
      assert.deepStrictEqual(told(encryption.open(envelope, orders)), Buffer.alloc(0))
    }))
})

describe("fuzzed bodies", () => {
  // ten minutes by hand: MILLRACE_FUZZ_SECONDS=600
  const seconds = Number(process.env["MILLRACE_FUZZ_SECONDS"] ?? 2)

  it("F10 never open, throw or suspend", { timeout: (seconds + 60) * 1000 }, () =>
    within(() => {
      const encryption = Encryption.make()
      const start = sealed(encryption, bytesOf("{\"amount\":12}"))
      const mutated = fc.tuple(
        fc.array(fc.tuple(fc.nat(start.length - 1), fc.nat(255)), { minLength: 1, maxLength: 12 }),
        fc.nat(start.length),
        fc.uint8Array({ maxLength: 64 })
      ).map(([changes, cut, tail]) => {
        const bytes = Buffer.from(start)
        for (const [at, value] of changes) bytes[at] = value
        return Buffer.concat([bytes.subarray(0, cut % 3 === 0 ? cut : bytes.length), tail])
      })
      const headed = fc.tuple(fc.constantFrom(1, 2, 3), fc.uint8Array({ maxLength: 400 })).map(([code, rest]) =>
        Buffer.concat([Buffer.from([0x4d, 0x52, 0x45, 1, code]), rest])
      )
      let count = 0
      fc.assert(
        fc.property(fc.oneof(mutated, headed, fc.uint8Array({ maxLength: 400 })), (bytes) => {
          count++
          if (Buffer.from(bytes).equals(start)) return
          assert.include(refused, told(encryption.open(bytes, orders)))
        }),
        { numRuns: Infinity, interruptAfterTimeLimit: seconds * 1000, markInterruptAsFailure: false }
      )
      assert.isAbove(count, 100)
    }))
})
