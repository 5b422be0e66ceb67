import { decrypt, encryptWith } from "../../packages/crypto/src/internal/body.ts"
import { type DataKey, derive } from "../../packages/crypto/src/internal/dataKey.ts"
import * as Xaes from "../../packages/crypto/src/internal/xaes.ts"
import { createHash, createSecretKey } from "node:crypto"
import { readFileSync } from "node:fs"
import { assert, describe, it } from "vitest"

type Verdict = "valid" | "acceptable" | "invalid"

interface File<Group> {
  readonly numberOfTests: number
  readonly testGroups: ReadonlyArray<Group>
}

/** Project Wycheproof (Apache License 2.0), https://github.com/C2SP/wycheproof. */
const read = <Group>(name: string): File<Group> =>
  JSON.parse(readFileSync(new URL(`./vectors/${name}_test.json`, import.meta.url), "utf8")) as File<Group>

const hex = (text: string): Buffer => Buffer.from(text, "hex")

const dataKey = (algorithm: DataKey["algorithm"], secret: Uint8Array): DataKey => {
  const key = createSecretKey(secret)
  return {
    algorithm,
    keyId: "vector",
    header: Buffer.alloc(0),
    key,
    mask: algorithm === "xaes256Gcm" ? Xaes.maskOf(key) : undefined
  }
}

describe("AES-256-GCM", () => {
  const file = read<{
    readonly keySize: number
    readonly ivSize: number
    readonly tests: ReadonlyArray<
      { readonly tcId: number; readonly key: string; readonly iv: string; readonly aad: string } & {
        readonly msg: string
        readonly ct: string
        readonly tag: string
        readonly result: Verdict
      }
    >
  }>("aes_gcm")

  it("F10 keeps the vectors of Project Wycheproof with keys of 256 and nonces of 96 bits", () => {
    const seen = { valid: 0, invalid: 0, other: 0 }
    for (const { ivSize, keySize, tests } of file.testGroups) {
      if (keySize !== 256 || ivSize !== 96) {
        seen.other += tests.length
        continue
      }
      for (const { aad, ct, iv, key, msg, result, tag, tcId } of tests) {
        const data = dataKey("aes256Gcm", hex(key))
        const envelope = Buffer.concat([hex(iv), hex(ct), hex(tag)])
        const isValid = result === "valid"
        assert.strictEqual(encryptWith(data, hex(iv), hex(aad), hex(msg)).equals(envelope), isValid, String(tcId))
        const opened = decrypt(data, hex(aad), envelope)
        assert.strictEqual(opened?.toString("hex"), isValid ? msg : undefined, String(tcId))
        seen[isValid ? "valid" : "invalid"]++
      }
    }
    assert.strictEqual(seen.valid + seen.invalid + seen.other, file.numberOfTests)
    assert.deepStrictEqual(seen, { valid: 39, invalid: 27, other: 250 })
  })
})

describe("HKDF-SHA-256", () => {
  const file = read<{
    readonly tests: ReadonlyArray<
      { readonly tcId: number; readonly ikm: string; readonly salt: string; readonly info: string } & {
        readonly size: number
        readonly okm: string
        readonly result: Verdict
      }
    >
  }>("hkdf_sha256")

  it("F10 keeps the vectors of Project Wycheproof of up to 64 bytes", () => {
    const seen = { valid: 0, longer: 0 }
    for (const { ikm, info, okm, result, salt, size, tcId } of file.testGroups.flatMap(({ tests }) => tests)) {
      if (size > 64 || result !== "valid") {
        seen.longer++
        continue
      }
      const { commitment, key } = derive(createSecretKey(hex(ikm)), hex(info), hex(salt))
      const all = Buffer.concat([key.export(), commitment])
      // the output of fewer bytes is a prefix of the output of more
      assert.strictEqual(all.toString("hex", 0, size), okm, String(tcId))
      seen.valid++
    }
    assert.deepStrictEqual(seen, { valid: 75, longer: 11 })
  })
})

// https://c2sp.org/XAES-256-GCM, section "Test vectors"
describe("XAES-256-GCM", () => {
  const nonce = Buffer.from("ABCDEFGHIJKLMNOPQRSTUVWX")
  const published = [
    {
      byte: 1,
      mask: "e531954aca063d5b8d9c47a47d4cc6f0",
      subkey: "c8612c9ed53fe43e8e005b828a1631a0bbcb6ab2f46514ec4f439fcfd0fa969b",
      aad: "",
      envelope: "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"
    },
    {
      byte: 3,
      mask: "23810ec50edb99f374409466ed1f4b7b",
      subkey: "e9c621d4cdd9b11b00a6427ad7e559aeedd66b3857646677748f8ca796cb3fd8",
      aad: "c2sp.org/XAES-256-GCM",
      envelope: "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"
    }
  ]

  it.each(published)("F10 keeps the published vector of key $byte", ({ aad, byte, envelope, mask, subkey }) => {
    const data = dataKey("xaes256Gcm", new Uint8Array(32).fill(byte))
    assert.strictEqual(Buffer.from(data.mask ?? []).toString("hex"), mask)
    assert.strictEqual(Buffer.from(Xaes.subkeyOf(data.key, data.mask!, nonce)).toString("hex"), subkey)
    const made = encryptWith(data, nonce, Buffer.from(aad), Buffer.from("XAES-256-GCM"))
    assert.strictEqual(made.toString("hex"), nonce.toString("hex") + envelope)
    assert.strictEqual(decrypt(data, Buffer.from(aad), made)?.toString(), "XAES-256-GCM")
  })

  it("F10 keeps the accumulated vectors of 10,000 messages", () => {
    // the output of SHAKE-128 is one stream: a longer one begins with the shorter
    const stream = createHash("shake128", { outputLength: 4_000_000 }).digest()
    let at = 0
    const next = (length: number): Buffer => stream.subarray(at, at += length)
    const sum = createHash("shake128", { outputLength: 32 })
    for (let i = 0; i < 10_000; i++) {
      const data = dataKey("xaes256Gcm", next(32))
      const own = next(24)
      const plain = next(next(1)[0]!)
      const aad = next(next(1)[0]!)
      const made = encryptWith(data, own, aad, plain)
      sum.update(made.subarray(24))
      assert.isTrue(decrypt(data, aad, made)?.equals(plain))
    }
    assert.isBelow(at, stream.length)
    assert.strictEqual(sum.digest("hex"), "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939")
  })
})
