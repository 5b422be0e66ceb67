import { aessiv } from "@noble/ciphers/aes.js"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import * as Siv from "../../packages/crypto/src/internal/siv.ts"

const bytes = (maxLength: number) => fc.uint8Array({ maxLength })
const key = fc.uint8Array({ minLength: 64, maxLength: 64 })

describe("AES-SIV", () => {
  it("F10 is that of @noble/ciphers, for texts and associated data of every length", () => {
    fc.assert(
      fc.property(key, fc.array(bytes(40), { maxLength: 4 }), bytes(100), (key, associated, plain) => {
        const parts = associated.map((each) => Buffer.from(each))
        const sealed = Siv.seal(Buffer.from(key), parts, Buffer.from(plain))
        assert.deepStrictEqual(new Uint8Array(sealed), aessiv(key, ...associated).encrypt(plain))
        assert.deepStrictEqual(Siv.open(Buffer.from(key), parts, sealed), Buffer.from(plain))
      }),
      { numRuns: 500 }
    )
  })

  it("F10 opens nothing that was changed or cut, nor with other associated data", () => {
    const secret = Buffer.alloc(64, 9)
    const sealed = Siv.seal(secret, [Buffer.from("a"), Buffer.from("b")], Buffer.from("some plain text"))
    for (let i = 0; i < sealed.length; i++) {
      const changed = Buffer.from(sealed)
      changed[i]! ^= 1 << (i % 8)
      assert.isUndefined(Siv.open(secret, [Buffer.from("a"), Buffer.from("b")], changed))
      assert.isUndefined(Siv.open(secret, [Buffer.from("a"), Buffer.from("b")], sealed.subarray(0, i)))
    }
    for (const other of [[], [Buffer.from("ab")], [Buffer.from("b"), Buffer.from("a")]]) {
      assert.isUndefined(Siv.open(secret, other, sealed))
    }
  })
})
