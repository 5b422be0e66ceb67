import { Jwt } from "@millrace/security"
import * as Keys from "../../packages/security/src/internal/keys.ts"
import { keyOf } from "../../packages/security/src/internal/signature.ts"
import { Effect, Redacted } from "effect"
import type * as jose from "jose"
import { createHmac, timingSafeEqual, webcrypto } from "node:crypto"
import { readFileSync } from "node:fs"
import { assert, describe, it } from "vitest"
import { ask, asymmetric, epoch, standing, verifierOf } from "./support.ts"

type Verdict = "valid" | "acceptable" | "invalid"

/** A file of vectors. */
interface File<Group> {
  readonly numberOfTests: number
  readonly testGroups: ReadonlyArray<Group>
}

/** A key of the vectors: its `alg` may be one that no standard has. */
interface Key extends jose.JWK {
  readonly k?: string
}

/** Vectors of JSON Web Signature: tokens for one key, or for a set. */
interface Tokens {
  readonly comment: string
  readonly public?: Key | { readonly keys: ReadonlyArray<Key> }
  readonly private?: Key | { readonly keys: ReadonlyArray<Key> }
  readonly tests: ReadonlyArray<{
    readonly tcId: number
    readonly comment: string
    readonly jws?: unknown
    readonly result: Verdict
  }>
}

/** Project Wycheproof (Apache License 2.0), https://github.com/C2SP/wycheproof. */
const read = <Group>(name: string): File<Group> =>
  JSON.parse(readFileSync(new URL(`./wycheproof/${name}_test.json`, import.meta.url), "utf8")) as File<Group>

const signatures = read<Tokens>("json_web_signature")
const sets = read<Tokens>("json_web_key")
const crypto = read<Tokens>("json_web_crypto")

const ed25519 = read<{
  readonly publicKeyPem: string
  readonly publicKeyJwk: Key
  readonly tests: ReadonlyArray<
    { readonly tcId: number; readonly msg: string; readonly sig: string; readonly result: Verdict }
  >
}>("ed25519")

const hmac = read<{
  readonly keySize: number
  readonly tests: ReadonlyArray<
    {
      readonly tcId: number
      readonly key: string
      readonly msg: string
      readonly tag: string
      readonly result: Verdict
    }
  >
}>("hmac_sha256")

const all = ["HS256", "HS384", "HS512", ...asymmetric] as const

/** The algorithms that a key of this kind may have been used with: its own, or all of its family where that is none. */
const algorithmsOf = (key: Key): readonly [Jwt.Algorithm, ...ReadonlyArray<Jwt.Algorithm>] => {
  const own = all.find((each) => each === key.alg)
  if (own !== undefined) return [own]
  return key.kty === "oct" ? ["HS256"] : key.kty === "EC" ? ["ES256", "ES384", "ES512"] : ["RS256", "RS384", "RS512"]
}

const keysOf = (group: Tokens): ReadonlyArray<Key> => {
  const given = group.public ?? group.private
  return given === undefined ? [] : "keys" in given ? given.keys : [given]
}

/** The verdict of a verifier with these keys: a set of public ones, or the first secret. A key that is refused says so. */
const verdictsOf = async (keys: ReadonlyArray<Key>, tokens: ReadonlyArray<string>): Promise<ReadonlyArray<string>> => {
  const first = keys[0]!
  const options = { algorithms: algorithmsOf(first), issuer: undefined, audience: undefined }
  const layerOf = () =>
    Jwt.layer({
      ...options,
      keys: first.kty === "oct" ? { secret: Buffer.from(first.k ?? "", "base64url") } : { jwks: { keys: [...keys] } }
    })
  try {
    const verifier = await verifierOf(layerOf(), standing(epoch * 1000))
    return await Promise.all(tokens.map((token) => ask(verifier, token)))
  } catch (error) {
    if (error instanceof RangeError) return tokens.map(() => "key refused")
    throw error
  }
}

/** Whether it is three parts of base64url in their one spelling, the first of which is JSON: what is not is refused unread. */
const isWellFormed = (jws: string): boolean => {
  const parts = jws.split(".")
  if (parts.length !== 3 || !parts.every((part) => Buffer.from(part, "base64url").toString("base64url") === part)) {
    return false
  }
  try {
    return typeof JSON.parse(Buffer.from(parts[0] ?? "", "base64url").toString()) === "object"
  } catch {
    return false
  }
}

/** Vectors on which this verifier differs, by file: it refuses some that are valid, and takes some that are said to be invalid. */
interface Differences {
  readonly refused?: ReadonlyArray<number>
  readonly taken?: ReadonlyArray<number>
}

const textOf = (jws: unknown): string => typeof jws === "string" ? jws : JSON.stringify(jws)

/** No payload of the vectors has claims: a token whose signature holds is refused for its payload, which is read after that. */
const compare = async (group: Tokens, { refused = [], taken = [] }: Differences) => {
  const tests = group.tests.filter(({ jws }) => jws !== undefined)
  const verdicts = await verdictsOf(keysOf(group), tests.map(({ jws }) => textOf(jws)))
  for (const [i, { comment, jws, result, tcId }] of tests.entries()) {
    const verdict = verdicts[i]!
    const holds = verdict === "malformed" && isWellFormed(textOf(jws))
    const expected = result === "invalid" ? taken.includes(tcId) : !refused.includes(tcId)
    assert.strictEqual(holds, expected, `${tcId} ${comment}: ${verdict}`)
    assert.notInclude(["AuthUnavailable", "undefined"], verdict)
  }
}

const count = (groups: ReadonlyArray<{ readonly tests: ReadonlyArray<unknown> }>): number =>
  groups.reduce((sum, { tests }) => sum + tests.length, 0)

/** Groups of JSON Web Encryption, which this package does not read. */
const isEncryption = ({ comment }: Tokens): boolean => comment.startsWith("jwe_")

const labelled = (groups: ReadonlyArray<Tokens>) => groups.map((group, i) => ({ comment: group.comment, group, i }))

describe("vectors of Project Wycheproof", () => {
  it("F8 all of a file are there", () => {
    for (const file of [signatures, sets, crypto, ed25519, hmac]) {
      assert.strictEqual(count(file.testGroups), file.numberOfTests)
    }
    assert.deepStrictEqual(
      [signatures, sets, crypto, ed25519, hmac].map(({ numberOfTests }) => numberOfTests),
      [401, 26, 83, 151, 174]
    )
    assert.strictEqual(count(crypto.testGroups.filter(isEncryption)), 34)
  })

  // refused: the key names another algorithm than the token, or one that no standard has; or the token has a character that base64url has
  // not. taken: said to be invalid for their padding,
  // which they lost; letter for letter the same token as 357, which is valid
  const ofSignatures: Differences = { refused: [346, 347, 350, 351, 372, 373], taken: [367, 370] }
  it.each(labelled(signatures.testGroups))(
    "F8 signatures: $comment, group $i",
    ({ group }) => compare(group, ofSignatures)
  )

  // taken: a set of secrets, or of secrets and public keys, is not read as a set (see below); its first secret is taken here
  const ofSets: Differences = { taken: [1, 4, 25, 26] }
  it.each(labelled(sets.testGroups))(
    "F8 key sets: $comment, group $i",
    ({ group }) => compare(group, ofSets)
  )

  it.each(labelled(crypto.testGroups.filter((group) => !isEncryption(group))))(
    "F8 JSON Web Crypto: $comment, group $i",
    ({ group }) => compare(group, { taken: [47] })
  )

  it("F8 an RSA key that protects nothing is no public key either", async () => {
    const weak = sets.testGroups.filter(({ comment }) => ["exponentOne", "jws_rsa_roca_key"].includes(comment))
    const good = sets.testGroups.find(({ comment }) => comment === "rs256")!
    const importOf = (group: Tokens) => Effect.runPromise(Effect.exit(Keys.publicKey(keysOf(group)[0]!, ["RS256"])))
    assert.strictEqual((await importOf(good))._tag, "Success")
    assert.strictEqual(weak.length, 2)
    for (const group of weak) {
      assert.include(String(await importOf(group)), "must be an extractable public key for RS256")
    }
  })

  it("F8 a set never makes a secret of one of its keys, whatever it says of itself", async () => {
    const groups = [...sets.testGroups, ...crypto.testGroups].filter((group) => !isEncryption(group))
    const secrets = groups.filter((group) => keysOf(group).some(({ kty }) => kty === "oct"))
    assert.isAbove(secrets.length, 10)
    for (const group of secrets) {
      const verifier = await verifierOf(
        Jwt.layer({
          algorithms: [...asymmetric],
          issuer: undefined,
          audience: undefined,
          keys: { jwks: { keys: [...keysOf(group)] } }
        }),
        standing(epoch * 1000)
      )
      for (const { jws, tcId } of group.tests) {
        const text = textOf(jws)
        if (isWellFormed(text)) assert.strictEqual(await ask(verifier, text), "unsupported alg", String(tcId))
      }
    }
  })
})

// their messages are no tokens: the key goes the way of a token's, and the runtime's own check is asked
describe("keys of Project Wycheproof", () => {
  it("F8 Ed25519: signatures by keys as JWK and as PEM", async () => {
    for (const { publicKeyJwk, publicKeyPem, tests } of ed25519.testGroups) {
      for (const key of [publicKeyJwk, publicKeyPem]) {
        const source = await Effect.runPromise(Keys.publicKey(key, ["EdDSA"]))
        const [found] = await Effect.runPromise(source.find(undefined))
        const imported = await found!.resolve({ alg: "EdDSA" }, { payload: "", signature: "" }) as jose.CryptoKey
        for (const { msg, result, sig, tcId } of tests) {
          const holds = await webcrypto.subtle.verify(
            "Ed25519",
            imported,
            Buffer.from(sig, "hex"),
            Buffer.from(msg, "hex")
          )
          assert.strictEqual(holds, result === "valid", String(tcId))
        }
      }
    }
  })

  it("F8 HMAC: secrets of signatures have 24 to 64 bytes, and their codes all bits", () => {
    const seen = { codes: 0, truncated: 0, keys: 0 }
    for (const { tests } of hmac.testGroups) {
      for (const { key, msg, result, tag, tcId } of tests) {
        const bytes = Buffer.from(key, "hex")
        const secret = Redacted.make(`whsec_${bytes.toString("base64")}`)
        if (bytes.length < 24 || bytes.length > 64) {
          assert.throws(() => keyOf(secret), RangeError, "24 to 64 bytes")
          seen.keys += 1
          continue
        }
        const own = createHmac("sha256", keyOf(secret)).update(Buffer.from(msg, "hex")).digest()
        const given = Buffer.from(tag, "hex")
        if (given.length === own.length) {
          assert.strictEqual(timingSafeEqual(own, given), result === "valid", String(tcId))
          seen.codes += 1
        } else {
          seen.truncated += 1
        }
      }
    }
    assert.deepStrictEqual(seen, { codes: 81, truncated: 81, keys: 12 })
  })
})
