import { Jwt } from "@millrace/security"
import type * as jose from "jose"
import { readFileSync } from "node:fs"
import { assert, describe, it } from "vitest"
import { ask, asymmetric, epoch, standing, verifierOf } from "./support.ts"

/** A key of the vectors: its `alg` may be one that no standard has. */
interface Key extends jose.JWK {
  readonly k?: string
}

interface Vectors {
  readonly numberOfTests: number
  readonly testGroups: ReadonlyArray<{
    readonly comment: string
    readonly public?: Key
    readonly private?: Key
    readonly tests: ReadonlyArray<{
      readonly tcId: number
      readonly comment: string
      readonly jws: unknown
      readonly result: "valid" | "acceptable" | "invalid"
    }>
  }>
}

/** Signatures of JSON Web Signature from Project Wycheproof (Apache License 2.0), https://github.com/C2SP/wycheproof. */
const vectors = JSON.parse(
  readFileSync(new URL("./wycheproof/json_web_signature_test.json", import.meta.url), "utf8")
) as Vectors

const all = ["HS256", "HS384", "HS512", ...asymmetric] as const

/** The algorithms that a key of this kind may have been used with: its own, or all of its family where that is none. */
const algorithmsOf = (key: Key): readonly [Jwt.Algorithm, ...ReadonlyArray<Jwt.Algorithm>] => {
  const own = all.find((each) => each === key.alg)
  return own === undefined ? key.kty === "EC" ? ["ES256", "ES384", "ES512"] : ["RS256", "RS384", "RS512"] : [own]
}

const optionsOf = (key: Key): Jwt.Options & { readonly keys: Jwt.LocalKeys } => ({
  algorithms: algorithmsOf(key),
  issuer: undefined,
  audience: undefined,
  keys: key.kty === "oct"
    ? { secret: Buffer.from(key.k ?? "", "base64url") }
    : { jwks: { keys: [key] } }
})

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

/** Valid, and refused all the same: the key names another algorithm than the token, or one that no standard has. */
const beside: ReadonlySet<number> = new Set([346, 347, 350, 351])

/** Said to be invalid for their padding, which they lost: letter for letter the same token as 357, which is valid. */
const mistaken: ReadonlySet<number> = new Set([367, 370])

describe("signatures of Project Wycheproof", () => {
  it("F8 has all of them", () => {
    assert.strictEqual(vectors.testGroups.reduce((sum, { tests }) => sum + tests.length, 0), vectors.numberOfTests)
    assert.isAbove(vectors.numberOfTests, 400)
  })

  for (const [i, group] of vectors.testGroups.entries()) {
    it(`F8 ${group.comment}, group ${i}`, async () => {
      const key = group.public ?? group.private
      if (key === undefined) return assert.fail("the group has no key")
      const verifier = await verifierOf(Jwt.layer(optionsOf(key)), standing(epoch * 1000))
      for (const { comment, jws, result, tcId } of group.tests) {
        const text = typeof jws === "string" ? jws : JSON.stringify(jws)
        const verdict = await ask(verifier, text)
        const what = `${tcId} ${comment}: ${verdict}`
        // none has claims: one whose signature holds is refused for its payload, which is read after that
        if (mistaken.has(tcId)) continue
        if (result === "invalid") assert.isTrue(verdict !== "malformed" || !isWellFormed(text), what)
        else if (!beside.has(tcId)) assert.strictEqual(verdict, "malformed", what)
        assert.notInclude(["AuthUnavailable", "undefined"], verdict, what)
      }
    })
  }
})
