import { Jwt } from "@millrace/security"
import * as Keys from "../../packages/security/src/internal/keys.ts"
import { QuickKeys } from "../../packages/security/src/internal/signedNow.ts"
import { Effect } from "effect"
import * as jose from "jose"
import { sign as signBytes } from "node:crypto"
import { readFileSync } from "node:fs"
import { assert, describe, it } from "vitest"
import { ask, claims, epoch, options, sign, standing, verdict, verifierOf } from "./support.ts"

/** The algorithms of which a token is checked without a wait, once its key has verified one. */
const quick = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256"] as const

const encode = (value: string) => Buffer.from(value).toString("base64url")

describe("a verifier whose key has verified a token", () => {
  it.each(quick)("F8 P10 says of each other token with %s what a new one says", async (alg) => {
    const [own, stranger] = await Promise.all([1, 2].map(() => jose.generateKeyPair(alg, { extractable: true })))
    const jwk = { ...await jose.exportJWK(own!.publicKey), kid: "one" }
    const write = (payload: object, header: object = {}) => sign(own!.privateKey, payload, { alg, ...header })
    const good = await write(claims)
    const [head = "", body = "", signature = ""] = good.split(".")
    const bytes = Buffer.from(signature, "base64url")
    const der = signBytes(
      `sha${alg.slice(2)}`,
      Buffer.from(`${head}.${body}`),
      await jose.exportPKCS8(own!.privateKey)
    )
    const payloadOf = (text: string) =>
      new jose.CompactSign(new TextEncoder().encode(text)).setProtectedHeader({ alg, typ: "JWT" }).sign(own!.privateKey)
    const tokens = [
      good,
      await write({ ...claims, sub: "bob" }),
      await write(claims, { kid: "one" }),
      await write(claims, { kid: "two" }),
      await write({ ...claims, exp: epoch - 6 }),
      await write({ ...claims, exp: epoch - 4 }),
      await write({ ...claims, nbf: epoch + 6 }),
      await write({ ...claims, iss: "https://other.example" }),
      await write({ ...claims, iss: 7 }),
      await write({ ...claims, aud: ["other"] }),
      await write({ ...claims, aud: ["other", "orders"] }),
      await write({ ...claims, sub: undefined }),
      await write({ ...claims, exp: undefined }),
      await write({ ...claims, exp: "soon" }),
      await write({ ...claims, scope: 7 }),
      await payloadOf("[]"),
      await payloadOf("{"),
      await payloadOf(""),
      await sign(stranger!.privateKey, claims, { alg }),
      `${head}.${encode(JSON.stringify({ ...claims, sub: "eve" }))}.${signature}`,
      `${head}.${body}.`,
      `${head}.${body}.${bytes.subarray(1).toString("base64url")}`,
      `${head}.${body}.${Buffer.concat([bytes, bytes]).toString("base64url")}`,
      `${head}.${body}.${Buffer.alloc(bytes.length).toString("base64url")}`,
      `${head}.${body}.${der.toString("base64url")}`,
      `${encode(`{"alg":"none"}`)}.${body}.`,
      `${encode(JSON.stringify({ alg, typ: "other" }))}.${body}.${signature}`
    ]
    const algorithms: Jwt.Options["algorithms"] = [alg]
    const use = { algorithms, keys: { jwks: { keys: [jwk] } } }
    const verifier = await verifierOf(Jwt.layer({ ...options, ...use }), standing(epoch * 1000))
    for (const kid of [undefined, "one"]) {
      const first = await write({ ...claims, sub: "first" }, kid === undefined ? {} : { kid })
      assert.strictEqual(await ask(verifier, first), "first")
    }
    const said = []
    for (const token of tokens) {
      said.push(await ask(verifier, token))
      assert.strictEqual(said.at(-1), await verdict(token, use), token)
    }
    assert.includeMembers(said, [
      "ada",
      "bob",
      "signature",
      "expired exp",
      "notYetValid nbf",
      "issuer iss",
      "audience aud"
    ])
  })

  it("F8 P10 answers a token that is new at once", async () => {
    const { privateKey, publicKey } = await jose.generateKeyPair("RS256")
    const use = { algorithms: ["RS256"], keys: { publicKey } } as const
    const verifier = await verifierOf(Jwt.layer({ ...options, ...use }), standing(epoch * 1000))
    const token = (sub: string) => sign(privateKey, { ...claims, sub }, { alg: "RS256" })
    assert.strictEqual(await ask(verifier, await token("ada")), "ada")
    const bob = await token("bob")
    assert.strictEqual(Effect.runSync(verifier.verify(bob)).subject, "bob")
  })
})

/** Project Wycheproof (Apache License 2.0), https://github.com/C2SP/wycheproof. */
const vectors = JSON.parse(
  readFileSync(new URL("./wycheproof/json_web_signature_test.json", import.meta.url), "utf8")
) as {
  readonly testGroups: ReadonlyArray<{
    readonly public?: jose.JWK
    readonly tests: ReadonlyArray<{ readonly jws: string; readonly tcId: number }>
  }>
}

it("F8 P10 signatures of Project Wycheproof hold where they hold for jose", async () => {
  const seen = { held: 0, refused: 0 }
  for (const { public: jwk, tests } of vectors.testGroups) {
    const alg = quick.find((each) => each === jwk?.alg)
    if (jwk === undefined || alg === undefined) continue
    const [key] = await Effect.runPromise(Keys.local({ keys: [jwk] }).find(undefined))
    const header = { alg, kid: undefined }
    const keys = new QuickKeys()
    keys.keep(key!, header, await jose.importJWK(jwk, alg))
    for (const { jws, tcId } of tests) {
      if (typeof jws !== "string" || !/^(?:[\w-]+\.){2}[\w-]*$/.test(jws)) continue
      const verified = await jose.compactVerify(jws, await jose.importJWK(jwk, alg), { algorithms: [alg] }).then(
        () => true,
        (error: unknown) => error instanceof jose.errors.JWSSignatureVerificationFailed ? false : undefined
      )
      // a header of another kind is refused before a signature is looked at
      if (verified === undefined) continue
      assert.strictEqual(keys.hasSigned(key!, header, jws), verified, String(tcId))
      seen[verified ? "held" : "refused"] += 1
    }
  }
  assert.isAbove(seen.held, 20)
  assert.isAbove(seen.refused, 20)
})
