import { Auth, Eager, type Envelope, Settlement } from "@millrace/core"
import { Jwt } from "@millrace/security"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Layer, Redacted } from "effect"
import * as fc from "fast-check"
import { generateKeyPairSync, KeyObject } from "node:crypto"
import { inspect } from "node:util"
import * as jose from "jose"
import { Cache } from "../../packages/security/src/internal/cache.ts"
import { deliver, runChain } from "../core/support.ts"
import {
  ask,
  asymmetric,
  claims,
  epoch,
  issuer,
  options,
  secret,
  sign,
  standing,
  verdict,
  verifierOf
} from "./support.ts"

const encode = (value: unknown) => jose.base64url.encode(JSON.stringify(value))

describe("algorithms", () => {
  it.each(asymmetric)("F8 %s by PEM, JWK, KeyObject, CryptoKey and key set", async (algorithm) => {
    const { privateKey, publicKey } = await jose.generateKeyPair(algorithm, { extractable: true })
    const jwk = { ...await jose.exportJWK(publicKey), kid: "one" }
    const token = await sign(privateKey, claims, { alg: algorithm, kid: "one" })
    const keys: ReadonlyArray<Jwt.LocalKeys> = [
      { publicKey: await jose.exportSPKI(publicKey) },
      { publicKey: jwk },
      { publicKey: KeyObject.from(publicKey) },
      { publicKey },
      { jwks: { keys: [{ kty: "oct", k: "AAAA", kid: "one" }, jwk] } }
    ]
    for (const each of keys) {
      assert.strictEqual(await verdict(token, { algorithms: [algorithm], keys: each }), "ada")
      const [head, body] = token.split(".")
      const other = (await sign(privateKey, { ...claims, sub: "bob" }, { alg: algorithm, kid: "one" })).split(".")[2]
      const forged = `${head}.${body}.${other}`
      assert.strictEqual(await verdict(forged, { algorithms: [algorithm], keys: each }), "signature")
    }
  })

  it.each(["HS256", "HS384", "HS512"] as const)("F8 %s by a secret, plain or redacted", async (algorithm) => {
    const token = await sign(secret, claims, { alg: algorithm })
    const values = [secret, new TextEncoder().encode(secret), Redacted.make(secret)]
    for (const each of values) {
      assert.strictEqual(await verdict(token, { algorithms: [algorithm], keys: { secret: each } }), "ada")
    }
    assert.strictEqual(await verdict(token, { algorithms: [algorithm], keys: { secret: secret + "!" } }), "signature")
  })

  it("F8 a set with several keys and a token that names none tries each that fits", async () => {
    const pairs = await Promise.all([1, 2, 3].map(() => jose.generateKeyPair("ES256", { extractable: true })))
    const keys = await Promise.all(
      pairs.map(async (pair, i) => ({ ...await jose.exportJWK(pair.publicKey), kid: `${i}` }))
    )
    const jwks = { algorithms: ["ES256"], keys: { jwks: { keys } } } as const
    assert.strictEqual(await verdict(await sign(pairs[2]!.privateKey, claims, { alg: "ES256" }), jwks), "ada")
    const stranger = await jose.generateKeyPair("ES256")
    assert.strictEqual(await verdict(await sign(stranger.privateKey, claims, { alg: "ES256" }), jwks), "signature")
    const named = { alg: "ES256", kid: "1" }
    assert.strictEqual(await verdict(await sign(pairs[1]!.privateKey, claims, named), jwks), "ada")
    assert.strictEqual(await verdict(await sign(pairs[2]!.privateKey, claims, named), jwks), "signature")
    const unknown = { alg: "ES256", kid: "9" }
    assert.strictEqual(await verdict(await sign(pairs[2]!.privateKey, claims, unknown), jwks), "unknownKey kid")
  })
})

describe("what RFC 8725 warns of", () => {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 })
  const pem = publicKey.export({ type: "spki", format: "pem" }).toString()
  const rs256 = { algorithms: ["RS256"], keys: { publicKey: pem } } as const

  it("F8 alg none, in any case, is not taken", async () => {
    for (const alg of ["none", "None", "NONE", "nOnE", ""]) {
      for (const signature of ["", "AAAA"]) {
        const token = `${encode({ alg, typ: "JWT" })}.${encode(claims)}.${signature}`
        assert.strictEqual(await verdict(token), "unsupported alg")
        assert.strictEqual(await verdict(token, rs256), "unsupported alg")
      }
    }
    assert.throws(
      () => Jwt.layer({ ...options, algorithms: ["none" as "HS256"] }),
      RangeError,
      "Jwt: each of algorithms"
    )
  })

  it("F8 a public key is never taken as the secret of an HMAC", async () => {
    const confused = await sign(pem, claims, { alg: "HS256" })
    assert.strictEqual(await verdict(confused, rs256), "unsupported alg")
    assert.throws(() => Jwt.layer({ ...options, ...rs256, algorithms: ["RS256", "HS256"] }), RangeError, "algorithms")
    assert.throws(() => Jwt.layer({ ...options, algorithms: ["HS256", "RS256"] }), RangeError, "algorithms")
  })

  it("F8 an algorithm that is not listed is refused, though the key could do it", async () => {
    const token = await new jose.SignJWT(claims).setProtectedHeader({ alg: "RS512" }).sign(privateKey)
    assert.strictEqual(await verdict(token, rs256), "unsupported alg")
    assert.strictEqual(await verdict(token, { ...rs256, algorithms: ["RS256", "RS512"] }), "ada")
  })

  it("F8 a token made for another purpose is refused by its type", async () => {
    for (const typ of ["dpop+jwt", "logout+jwt", "application/secevent+jwt", "", 7]) {
      assert.strictEqual(await verdict(await sign(secret, claims, { typ })), "type typ", String(typ))
    }
    for (const typ of ["JWT", "jwt", "at+jwt", "application/at+JWT", undefined]) {
      assert.strictEqual(await verdict(await sign(secret, claims, { typ })), "ada", String(typ))
    }
    const types = ["at+jwt"]
    assert.strictEqual(await verdict(await sign(secret, claims, { typ: "JWT" }), { types }), "type typ")
    assert.strictEqual(await verdict(await sign(secret, claims, { typ: undefined }), { types }), "type typ")
    assert.strictEqual(await verdict(await sign(secret, claims, { typ: "at+jwt" }), { types }), "ada")
  })

  it("F8 a header that demands to be understood is refused", async () => {
    const header = { alg: "HS256", crit: ["exp"], exp: epoch }
    const input = `${encode(header)}.${encode(claims)}`
    const mac = await crypto.subtle.importKey(
      "raw",
      new TextEncoder().encode(secret),
      {
        name: "HMAC",
        hash: "SHA-256"
      },
      false,
      ["sign"]
    )
    const signature = await crypto.subtle.sign("HMAC", mac, new TextEncoder().encode(input))
    const token = `${input}.${jose.base64url.encode(new Uint8Array(signature))}`
    assert.strictEqual(await verdict(token), "unsupported crit")
  })

  it("F8 keys inside the token are not looked at", async () => {
    const pair = await jose.generateKeyPair("RS256", { extractable: true })
    const jwk = await jose.exportJWK(pair.publicKey)
    const token = await sign(pair.privateKey, claims, { alg: "RS256", jwk, jku: "https://evil.example/jwks" })
    assert.strictEqual(await verdict(token, rs256), "signature")
  })

  it("F8 an oversized token is refused before anything is read", async () => {
    const token = await sign(secret, { ...claims, more: "x".repeat(8192) })
    assert.strictEqual(await verdict(token), "oversized")
    assert.strictEqual(await verdict(token, { maximumLength: token.length }), "ada")
    assert.strictEqual(await verdict(token, { maximumLength: token.length - 1 }), "oversized")
  })

  it("F8 claims of a wrong type are refused", async () => {
    for (
      const [wrong, claim] of [
        [{ sub: 7 }, "sub"],
        [{ sub: "" }, "sub"],
        [{ sub: null }, "sub"],
        [{ sub: { toString: "ada" } }, "sub"],
        [{ sub: undefined }, "sub"],
        [{ jti: 7 }, "jti"],
        [{ scope: 7 }, "scope"],
        [{ scope: ["a", 7] }, "scope"],
        [{ scp: { a: true } }, "scp"],
        [{ exp: "9999999999" }, "exp"],
        [{ exp: null }, "exp"],
        [{ exp: undefined }, "exp"],
        [{ nbf: "0" }, "nbf"],
        [{ iat: [] }, "iat"],
        [{ iss: undefined }, "iss"],
        [{ aud: undefined }, "aud"]
      ] as const
    ) {
      assert.strictEqual(
        await verdict(await sign(secret, { ...claims, ...wrong })),
        `claims ${claim}`,
        JSON.stringify(wrong)
      )
    }
    const endless = JSON.stringify(claims).replace(`${claims.exp}`, "1e400")
    const token = await new jose.CompactSign(new TextEncoder().encode(endless))
      .setProtectedHeader({ alg: "HS256" }).sign(new TextEncoder().encode(secret))
    assert.strictEqual(await verdict(token), "claims exp")
    const anyone = { issuer: undefined, audience: undefined }
    assert.strictEqual(await verdict(await sign(secret, { ...claims, iss: 7 }), anyone), "claims iss")
    assert.strictEqual(await verdict(await sign(secret, { ...claims, aud: [7] }), anyone), "claims aud")
  })

  it("F8 another issuer, another audience", async () => {
    assert.strictEqual(await verdict(await sign(secret, { ...claims, iss: "https://evil.example" })), "issuer iss")
    assert.strictEqual(await verdict(await sign(secret, { ...claims, aud: "payments" })), "audience aud")
    assert.strictEqual(await verdict(await sign(secret, { ...claims, aud: ["payments", "orders"] })), "ada")
    const several = { issuer: ["a", issuer], audience: ["b", "orders"] }
    assert.strictEqual(await verdict(await sign(secret), several), "ada")
    assert.strictEqual(await verdict(await sign(secret), { issuer: "a" }), "issuer iss")
    assert.strictEqual(
      await verdict(await sign(secret, { sub: "ada", exp: claims.exp }), {
        issuer: undefined,
        audience: undefined
      }),
      "ada"
    )
  })

  it("F8 required claims, and a token that never expires only where it is allowed", async () => {
    const endless = { ...claims, exp: undefined }
    assert.strictEqual(await verdict(await sign(secret, endless), { requiredClaims: [] }), "ada")
    assert.strictEqual(await verdict(await sign(secret), { requiredClaims: ["tenant"] }), "claims tenant")
    assert.strictEqual(
      await verdict(await sign(secret, { ...endless, iat: epoch }), { maximumTokenAge: "1 minute" }),
      "claims exp"
    )
    assert.strictEqual(
      await verdict(await sign(secret, endless), { maximumTokenAge: "1 minute", requiredClaims: [] }),
      "claims iat"
    )
  })
})

describe("forms", () => {
  it("F8 what is no token is malformed, and nothing throws", async () => {
    const token = await sign(secret)
    const [head, body, signature] = token.split(".")
    const wrong = [
      "",
      ".",
      "..",
      "a.b",
      `${token}.`,
      `.${token}`,
      ` ${token}`,
      `${token}\n`,
      `${token}=`,
      `${head}.${body}`,
      `${head}.${body}.${signature}.x`,
      `e30.${body}.${signature}`,
      `${encode([])}.${body}.${signature}`,
      `${jose.base64url.encode("{")}.${body}.${signature}`,
      "\u{1F600}.\u{1F600}.\u{1F600}"
    ]
    for (const each of wrong) assert.oneOf(await verdict(each), ["malformed", "unsupported alg"], each)
    const noObject = new jose.CompactSign(new TextEncoder().encode("[]")).setProtectedHeader({ alg: "HS256" })
    assert.strictEqual(await verdict(await noObject.sign(new TextEncoder().encode(secret))), "malformed")
  })

  it("F8 a token that was changed anywhere never verifies", async () => {
    const clock = standing(epoch * 1000)
    const pair = await jose.generateKeyPair("ES256", { extractable: true })
    const publicKey = await jose.exportJWK(pair.publicKey)
    const cases = [
      [await verifierOf(Jwt.layer(options), clock), await sign(secret)],
      [
        await verifierOf(Jwt.layer({ ...options, algorithms: ["ES256"], keys: { publicKey } }), clock),
        await sign(pair.privateKey, claims, { alg: "ES256" })
      ]
    ] as const
    const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.+/= "
    const changes = fc.tuple(fc.nat(), fc.constantFrom(...letters), fc.constantFrom("replace", "insert", "remove"))
    for (const [verifier, token] of cases) {
      // kept from here on: a changed token must not find it
      assert.strictEqual(await ask(verifier, token), "ada")
      await fc.assert(
        fc.asyncProperty(changes, async ([where, letter, how]) => {
          const at = where % token.length
          const changed = token.slice(0, at) + (how === "remove" ? "" : letter) +
            token.slice(how === "insert" ? at : at + 1)
          fc.pre(changed !== token)
          assert.notStrictEqual(await ask(verifier, changed), "ada")
        }),
        { numRuns: 500 }
      )
      for (const letter of letters) {
        const changed = token.slice(0, -1) + letter
        if (changed !== token) assert.notStrictEqual(await ask(verifier, changed), "ada", letter)
      }
    }
  }, 60_000)

  it("F8 B10 no refusal holds a part of the token", async () => {
    const clock = standing(epoch * 1000)
    const verifier = await verifierOf(Jwt.layer({ ...options, maximumLength: 700 }), clock)
    const tokens = [
      await sign("another secret of more than thirty-two bytes"),
      await sign(secret, { ...claims, exp: 1, secret: "my-own-secret" }),
      await sign(secret, { ...claims, iss: "my-own-secret" }),
      await sign(secret, { ...claims, scope: { secret: "my-own-secret" } }),
      await sign(secret, { ...claims, more: "my-own-secret".repeat(100) }),
      await sign(secret, claims, { typ: "my-own-secret" }),
      "my-own-secret"
    ]
    for (const token of tokens) {
      const error = await Effect.runPromise(Effect.flip(verifier.verify(token)))
      const shown = [inspect(error, { depth: 9 }), JSON.stringify(error), String(error), error.stack].join("\n")
      assert.notInclude(shown, "my-own-secret")
      for (const part of token.split(".")) assert.notInclude(shown, part)
    }
  })
})

describe("principals", () => {
  it("F8 scopes are the words of scope, else those of scp, else what the option says", async () => {
    const clock = standing(epoch * 1000)
    const scopesOf = async (more: object, other: Partial<Jwt.Options> = {}) => {
      const verifier = await verifierOf(Jwt.layer({ ...options, ...other }), clock)
      return (await Effect.runPromise(verifier.verify(await sign(secret, { ...claims, ...more })))).scopes
    }
    assert.deepStrictEqual(await scopesOf({}), [])
    assert.deepStrictEqual(await scopesOf({ scope: "a b  c" }), ["a", "b", "c"])
    assert.deepStrictEqual(await scopesOf({ scp: "a b" }), ["a", "b"])
    assert.deepStrictEqual(await scopesOf({ scp: ["a", "b"] }), ["a", "b"])
    assert.deepStrictEqual(await scopesOf({ scope: "a", scp: ["b"] }), ["a"])
    assert.deepStrictEqual(await scopesOf({ roles: ["r"] }, { scopes: (claims) => claims["roles"] as Array<string> }), [
      "r"
    ])
  })

  it("F8 a principal cannot be changed by one of the messages that share it", async () => {
    const verifier = await verifierOf(Jwt.layer(options), standing(epoch * 1000))
    const token = await sign(secret, { ...claims, tenant: { roles: ["reader"] } })
    const principal = await Effect.runPromise(verifier.verify(token))
    assert.strictEqual(principal.issuer, issuer)
    assert.throws(() => (principal.scopes as Array<string>).push("admin"), TypeError)
    assert.throws(() => (principal.claims["tenant"] as { roles: Array<string> }).roles.push("admin"), TypeError)
  })
})

/** The model of time: what a verifier says of a token by its times, whether it saw it before or not. */
const expected = (
  times: { readonly exp?: number | undefined; readonly nbf?: number | undefined; readonly iat?: number | undefined },
  now: number,
  tolerance: number,
  age: number | undefined
) => {
  const second = Math.floor(now / 1000)
  const reasons: Array<string> = []
  if (times.nbf !== undefined && times.nbf > second + tolerance) reasons.push("notYetValid")
  if (times.exp !== undefined && times.exp <= second - tolerance) reasons.push("expired")
  if (age !== undefined && second - times.iat! > age + tolerance) reasons.push("expired")
  if (age !== undefined && second - times.iat! < -tolerance) reasons.push("notYetValid")
  return reasons.length === 0 ? ["ada"] : reasons
}

describe("time", () => {
  it("F8 any clock, any times: the first answer and every later one agree with the model", async () => {
    const near = fc.oneof(
      fc.integer({ min: -30, max: 30 }),
      fc.integer({ min: -30_000, max: 30_000 }).map((ms) => ms / 1000)
    )
    await fc.assert(
      fc.asyncProperty(
        fc.record({ exp: fc.option(near), nbf: fc.option(near), iat: near }),
        fc.integer({ min: 0, max: 10 }),
        fc.option(fc.integer({ min: 1, max: 20 })),
        fc.array(
          fc.oneof(fc.integer({ min: -40, max: 40 }).map((s) => s * 1000), fc.integer({ min: -40_000, max: 40_000 })),
          {
            minLength: 2,
            maxLength: 12
          }
        ),
        async (offsets, tolerance, age, clocks) => {
          const at = (offset: number | null) => offset === null ? undefined : epoch + offset
          const times = { exp: at(offsets.exp), nbf: at(offsets.nbf), iat: at(offsets.iat) }
          const clock = standing(0)
          const verifier = await verifierOf(
            Jwt.layer({
              ...options,
              clockTolerance: tolerance * 1000,
              maximumTokenAge: age === null ? undefined : age * 1000,
              requiredClaims: []
            }),
            clock
          )
          const token = await sign(secret, { ...claims, ...times })
          // the milliseconds around every second at which a verdict may change
          const edges = Object.values(times)
            .flatMap((time) =>
              time === undefined ? [] : [time - tolerance, time + tolerance, time + tolerance + (age ?? 0)]
            )
            .flatMap((time) => [Math.floor(time), Math.ceil(time), Math.ceil(time) + 1])
            .flatMap((time) => [time * 1000 - 1, time * 1000])
          for (const now of [...clocks.map((offset) => epoch * 1000 + offset), ...edges]) {
            clock.now = now
            const [answer = ""] = (await ask(verifier, token)).split(" ")
            assert.include(expected(times, now, tolerance, age ?? undefined), answer, `at ${now - epoch * 1000}`)
          }
        }
      ),
      { numRuns: 100 }
    )
  }, 60_000)

  it("F8 5 seconds of tolerance by default, exact to the second", async () => {
    const clock = standing(0)
    const verifier = await verifierOf(Jwt.layer(options), clock)
    const token = await sign(secret, { ...claims, nbf: epoch, exp: epoch + 60 })
    for (
      const [offset, answer] of [
        [-5001, "notYetValid nbf"],
        [-5000, "ada"],
        [-5001, "notYetValid"],
        [0, "ada"],
        [64_999, "ada"],
        [65_000, "expired"],
        [65_000, "expired exp"],
        [0, "ada"]
      ] as const
    ) {
      clock.now = epoch * 1000 + offset
      assert.strictEqual(await ask(verifier, token), answer, String(offset))
    }
  })
})

describe("the cache", () => {
  const atOnce = (verifier: Auth.Verifier["Service"], token: string) => {
    const answer = verifier.verify(token)
    return Eager.isDone(answer) && answer._tag === "Success"
  }

  it("F8 P10 a token that comes again is answered at once, with the same principal", async () => {
    const verifier = await verifierOf(Jwt.layer(options), standing(epoch * 1000))
    const token = await sign(secret)
    assert.isFalse(atOnce(verifier, token))
    const first = await Effect.runPromise(verifier.verify(token))
    assert.isTrue(atOnce(verifier, `_${token}`.slice(1)))
    assert.strictEqual(await Effect.runPromise(verifier.verify(token)), first)
  })

  it("F8 refusals are not kept, and kept tokens are at most as many as allowed", async () => {
    const verifier = await verifierOf(Jwt.layer({ ...options, cache: { capacity: 3 } }), standing(epoch * 1000))
    const tokens = await Promise.all(Array.from({ length: 10 }, (_, i) => sign(secret, { ...claims, jti: `${i}` })))
    const forged = await sign("another secret of more than thirty-two bytes")
    for (const token of tokens) {
      assert.strictEqual(await ask(verifier, token), "ada")
      assert.isTrue(atOnce(verifier, token))
      assert.strictEqual(await ask(verifier, forged), "signature")
      assert.isFalse(atOnce(verifier, forged))
      assert.isAtMost(tokens.filter((each) => atOnce(verifier, each)).length, 3)
    }
  })

  it("F8 messages that carry the same new token at the same time share one check", async () => {
    const clock = standing(epoch * 1000)
    const verifier = await verifierOf(Jwt.layer(options), clock)
    const token = await sign(secret)
    const found = await Effect.runPromise(
      Effect.forEach(Array.from({ length: 50 }), () => verifier.verify(token), { concurrency: "unbounded" })
    )
    assert.strictEqual(new Set(found).size, 1)
  })

  it("F8 a revoked token is refused from the next message on, kept or not", async () => {
    const revoked = new Set<string>()
    const verifier = await verifierOf(
      Jwt.layer({ ...options, isRevoked: ({ claims }) => revoked.has(claims["jti"] as string) }),
      standing(epoch * 1000)
    )
    const token = await sign(secret, { ...claims, jti: "one" })
    assert.strictEqual(await ask(verifier, token), "ada")
    revoked.add("one")
    assert.strictEqual(await ask(verifier, token), "refused")
    revoked.clear()
    assert.strictEqual(await ask(verifier, token), "ada")
  })

  it("F8 what is used stays, what is not makes room, what has expired goes first; never more than the capacity", () => {
    const entry = (name: string, until = Infinity) => ({
      // the last letter finds nothing
      token: `${name}.`.padStart(20, "-"),
      key: name,
      from: 0,
      until,
      verified: Exit.succeed({ subject: name, issuer: undefined, scopes: [], claims: {} }) as never,
      used: true
    })
    const cache = new Cache(3)
    const all = ["a", "b", "c", "d", "e"].map((name) => entry(name))
    const has = () => all.filter((each) => cache.get(each.token) !== undefined).map((each) => each.key).join("")
    for (const each of all.slice(0, 4)) cache.put(each, 0)
    // the first round took every mark away, and b alone is used again
    assert.isDefined(cache.get(all[1]!.token))
    cache.put(all[4]!, 0)
    assert.strictEqual(has(), "bde")
    cache.retain(new Set(["b"]))
    assert.strictEqual(has(), "b")
    const expiring = new Cache(2)
    for (const each of [entry("lasting"), entry("expired", 10), entry("new")]) expiring.put(each, 20)
    assert.isDefined(expiring.get(entry("lasting").token))
    assert.isUndefined(expiring.get(entry("expired").token))
    fc.assert(fc.property(fc.array(fc.tuple(fc.nat(30), fc.boolean(), fc.nat(100))), (operations) => {
      const small = new Cache(4)
      for (const [index, put, now] of operations) {
        const each = entry(`k${index}`, 50)
        if (put) {
          small.put(each, now)
          assert.strictEqual(small.get(each.token), each)
        } else small.get(each.token)
        assert.isAtMost(small.size, 4)
      }
    }))
  })

  it("F8 an entry holds for its own token only, though another ends as it does", () => {
    const cache = new Cache(3)
    const token = "a.b.same-end-of-both-tokens"
    cache.put({ token, key: "", from: 0, until: 1, verified: undefined as never, used: true }, 0)
    assert.isUndefined(cache.get("x.y.same-end-of-both-tokens"))
    assert.isDefined(cache.get(token))
  })
})

describe("in a pipeline", () => {
  it.effect("F8 F15 a valid token reaches the handler as a principal, a forged one is dead-lettered", () =>
    Effect.gen(function*() {
      const handler = Auth.middleware({ scopes: ["orders:write"] })((_message: Envelope) =>
        Effect.map(Auth.Principal, (principal) => principal.subject)
      )
      const send = (token: string) => runChain(handler, deliver({ headers: { authorization: `Bearer ${token}` } }))
      const outcome = (exit: Exit.Exit<unknown, unknown>) =>
        Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag
      const good = yield* Effect.promise(() => sign(secret, { ...claims, scope: "orders:write" }))
      const weak = yield* Effect.promise(() => sign(secret, claims))
      const forged = yield* Effect.promise(() => sign("another secret of more than thirty-two bytes"))
      assert.deepStrictEqual(yield* send(good), Exit.succeed("ada"))
      assert.deepStrictEqual(
        yield* send(weak),
        Exit.fail(new Auth.Forbidden({ subject: "ada", missing: ["orders:write"] }))
      )
      const refused = yield* send(forged)
      assert.deepStrictEqual(refused, Exit.fail(new Auth.Unauthorized({ reason: "signature" })))
      assert.strictEqual(outcome(refused), "DeadLetter")
    }).pipe(
      Effect.provide(Jwt.layer(options)),
      Effect.provideService(Clock.Clock, standing(epoch * 1000))
    ))
})

describe("options", () => {
  it("F8 what is out of range is refused when the layer is made", () => {
    const wrong: ReadonlyArray<readonly [object, string]> = [
      [{ algorithms: [] }, "Jwt: algorithms must name at least one"],
      [{ algorithms: ["HS1"] }, "Jwt: each of algorithms must be"],
      [{ clockTolerance: "-1 seconds" }, "Jwt: clockTolerance"],
      [{ clockTolerance: "1500 millis" }, "Jwt: clockTolerance"],
      [{ maximumTokenAge: 0 }, "Jwt: maximumTokenAge"],
      [{ maximumLength: 0 }, "Jwt: maximumLength"],
      [{ cache: { capacity: 0 } }, "Jwt: cache.capacity"],
      [{ keys: { secret: "too short" } }, "Jwt: keys.secret must have at least 32 bytes for HS256, got 9"],
      [{ keys: { secret: "x".repeat(63) }, algorithms: ["HS512"] }, "Jwt: keys.secret must have at least 64 bytes"],
      [{ keys: { url: "http://issuer.example/jwks" }, algorithms: ["RS256"] }, "Jwt: keys.url must be https"],
      [{ keys: { url: "nowhere" }, algorithms: ["RS256"] }, "Jwt: keys.url must be an address"],
      [{ keys: { url: "https://a.example", cooldown: 0 }, algorithms: ["RS256"] }, "Jwt: keys.cooldown"]
    ]
    for (const [each, message] of wrong) {
      assert.throws(
        () => Jwt.layer({ ...options, ...each } as Jwt.Options & { keys: Jwt.LocalKeys }),
        RangeError,
        message
      )
    }
  })

  it("F8 a key that is private, of another kind or no key at all kills the layer, and is not quoted", async () => {
    const { privateKey, publicKey } = await jose.generateKeyPair("ES256", { extractable: true })
    const pem = await jose.exportPKCS8(privateKey)
    const wrong: ReadonlyArray<readonly [Jwt.PublicKey, Jwt.Algorithm]> = [
      [pem, "ES256"],
      [await jose.exportJWK(privateKey), "ES256"],
      [privateKey, "ES256"],
      [KeyObject.from(privateKey), "ES256"],
      [await jose.exportSPKI(publicKey), "RS256"],
      [publicKey, "RS256"],
      [KeyObject.from(publicKey), "RS256"],
      [generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey, "RS256"],
      [{ kty: "oct", k: "AAAA" }, "ES256"],
      ["no key", "ES256"]
    ]
    for (const [key, algorithm] of wrong) {
      const exit = await Effect.runPromiseExit(
        Effect.scoped(Layer.build(Jwt.layer({ ...options, algorithms: [algorithm], keys: { publicKey: key } })))
      )
      const shown = inspect(exit, { depth: 9 })
      assert.include(shown, `RangeError: Jwt: keys.publicKey must be an extractable public key for ${algorithm}`)
      assert.notInclude(shown, pem.split("\n")[1] ?? "")
    }
  })
})
