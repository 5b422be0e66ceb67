import { Auth, type Envelope } from "@millrace/core"
import { Server } from "@millrace/http"
import { Jwt } from "@millrace/security"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer } from "effect"
import { FetchHttpClient, HttpRouter } from "effect/http"
import { TestClock } from "effect/testing"
import * as jose from "jose"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { generateKeyPairSync, sign as signBytes } from "node:crypto"
import { call, serveWith } from "../http/support.ts"
import { claims as few, epoch, issuer, secret } from "./support.ts"

// the cases take hours of virtual time, a cool-down each
const claims = { ...few, exp: epoch + 1_000_000 }

const text = (value: unknown) => typeof value === "string" ? value : JSON.stringify(value)
const part = (value: unknown) => Buffer.from(text(value)).toString("base64url")

const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 })
const weak = generateKeyPairSync("rsa", { modulusLength: 1024 })
const ec = generateKeyPairSync("ec", { namedCurve: "P-256" })
const evil = generateKeyPairSync("rsa", { modulusLength: 2048 })
const evilEc = generateKeyPairSync("ec", { namedCurve: "P-256" })

const jwkOf = (key: typeof rsa, kid: string) => ({ ...key.publicKey.export({ format: "jwk" }), kid })

type Header = { readonly [name: string]: unknown } | string

/** A token of any header and payload, signed as its key does, and put together by hand. */
const token = (payload: unknown = claims, header: Header = {}, key: typeof rsa = rsa): string => {
  const isEc = key.privateKey.asymmetricKeyType === "ec"
  const whole = typeof header === "string"
    ? header
    : { alg: isEc ? "ES256" : "RS256", kid: isEc ? "ec" : "rsa", typ: "JWT", ...header }
  const input = `${part(whole)}.${part(payload)}`
  const signature = isEc
    ? signBytes("sha256", Buffer.from(input), { key: key.privateKey, dsaEncoding: "ieee-p1363" })
    : signBytes("sha256", Buffer.from(input), key.privateKey)
  return `${input}.${signature.toString("base64url")}`
}

const unsigned = (header: Header, payload: unknown = claims, signature: string | Uint8Array = "") =>
  `${part(header)}.${part(payload)}.${
    typeof signature === "string" ? signature : Buffer.from(signature).toString("base64url")
  }`

const good = token()
const [head = "", payload = "", signature = ""] = good.split(".")
const bob = token({ ...claims, sub: "bob" }).split(".")

const pem = rsa.publicKey.export({ type: "spki", format: "pem" })
const mac = async (key: string | Uint8Array, header: object = {}) =>
  new jose.CompactSign(Buffer.from(text(claims))).setProtectedHeader({ alg: "HS256", typ: "JWT", ...header })
    .sign(typeof key === "string" ? Buffer.from(key) : key)

/** The order of P-256: r = s = n is as empty a signature as r = s = 0. */
const order = Buffer.from("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", "hex")
const one = Buffer.alloc(32)
one[31] = 1

const attacker = "https://evil.example"

/** What an attacker sends, and the reason that the error has; nobody but the log is told. */
const attacks = async (jku: string): Promise<ReadonlyArray<readonly [string, string, string]>> => {
  const foreign = { jwk: jwkOf(evil, "rsa") }
  const encrypted = await new jose.EncryptJWT(claims).setProtectedHeader({ alg: "dir", enc: "A256GCM" })
    .encrypt(new Uint8Array(32))
  const keyless = { kid: undefined }
  return [
    // 2.1, 3.1: algorithms
    ...["none", "None", "NONE", "nOnE"].flatMap((alg) => [
      [`alg ${alg}`, unsigned({ alg, kid: "rsa" }), "unsupported alg"] as const,
      [`alg ${alg} with a signature`, unsigned({ alg, kid: "rsa" }, claims, signature), "unsupported alg"] as const
    ]),
    ["no alg", unsigned({ kid: "rsa" }, claims, signature), "unsupported alg"],
    ["alg that is a list", unsigned({ alg: ["RS256"], kid: "rsa" }, claims, signature), "unsupported alg"],
    ["alg of a prototype", unsigned(`{"__proto__":{"alg":"RS256"},"kid":"rsa"}`, claims, signature), "unsupported alg"],
    ["alg twice, the last is none", unsigned(`{"alg":"RS256","alg":"none"}`), "unsupported alg"],
    ["alg twice, the first is none", unsigned(`{"alg":"none","alg":"RS256","kid":"rsa"}`), "signature"],
    ["HMAC by the public key as PEM", await mac(pem), "unsupported alg"],
    ["HMAC by the public key as PEM, and its kid", await mac(pem, { kid: "rsa" }), "unsupported alg"],
    [
      "HMAC by the public key as DER",
      await mac(rsa.publicKey.export({ type: "spki", format: "der" })),
      "unsupported alg"
    ],
    ["HMAC by the public key as JWK", await mac(text(jwkOf(rsa, "rsa"))), "unsupported alg"],
    ["HMAC by a secret of the set", await mac(secret, { kid: "oct" }), "unsupported alg"],
    ["another algorithm of the same key", unsigned({ alg: "PS256", kid: "rsa" }, claims, signature), "unsupported alg"],
    ["an algorithm of another key", token(claims, { alg: "ES256" }), "unknownKey kid"],
    ["a key of another algorithm", token(claims, { kid: "ec" }), "unknownKey kid"],
    // 3.2, 3.3: signatures
    ["no signature", `${head}.${payload}.`, "signature"],
    ["no signature and no full stop", `${head}.${payload}`, "malformed"],
    ["half of a signature", `${head}.${payload}.${signature.slice(0, 100)}`, "signature"],
    ["a longer signature", `${head}.${payload}.${signature}AAAA`, "signature"],
    ["the signature of another token", `${head}.${payload}.${bob[2]}`, "signature"],
    ["the payload of another token", `${head}.${bob[1]}.${signature}`, "signature"],
    ["zeros for a signature", unsigned({ alg: "ES256", kid: "ec" }, claims, new Uint8Array(64)), "signature"],
    [
      "the order for a signature",
      unsigned({ alg: "ES256", kid: "ec" }, claims, Buffer.concat([order, order])),
      "signature"
    ],
    [
      "r of one and s of zero",
      unsigned({ alg: "ES256", kid: "ec" }, claims, Buffer.concat([one, Buffer.alloc(32)])),
      "signature"
    ],
    [
      "a signature as DER",
      unsigned(
        { alg: "ES256", kid: "ec" },
        claims,
        signBytes("sha256", Buffer.from(`${part({ alg: "ES256", kid: "ec" })}.${part(claims)}`), ec.privateKey)
      ),
      "signature"
    ],
    ["a stranger's key under a known name", token(claims, {}, evil), "signature"],
    ["a stranger's key under a known name, elliptic", token(claims, {}, evilEc), "signature"],
    ["a stranger's key and no name", token(claims, keyless, evil), "signature"],
    // 3.4, 3.5: keys
    ["a key of 1,024 bits", token(claims, { kid: "weak" }, weak), "unknownKey kid"],
    ["a key beside its curve", token(claims, { kid: "off" }, ec), "unknownKey kid"],
    ["a key of another curve", token(claims, { kid: "other" }, ec), "unknownKey kid"],
    // 3.10: what a token says of its key
    ["a jwk in the header", token(claims, foreign, evil), "signature"],
    ["a jwk in the header and no kid", token(claims, { ...foreign, ...keyless }, evil), "signature"],
    ["a jku in the header", token(claims, { jku }, evil), "signature"],
    ["an x5u in the header", token(claims, { x5u: jku }, evil), "signature"],
    ["an x5c in the header", token(claims, { x5c: [part("x")] }, evil), "signature"],
    ...[
      "../../../../dev/null",
      "/dev/null",
      "rsa' OR '1'='1",
      "rsa'; DROP TABLE keys; --",
      "rsa\0",
      "rsa\n",
      " rsa",
      "RSA",
      "",
      "__proto__",
      "constructor",
      `${attacker}/jwks`,
      "\u0433sa",
      "$(id)",
      "k".repeat(1000)
    ].map((kid) =>
      [`kid ${JSON.stringify(kid).slice(0, 30)}`, token(claims, { kid }, evil), "unknownKey kid"] as const
    ),
    ["kid that is a number", token(claims, { kid: 0 }, evil), "malformed kid"],
    ["kid that is a list", token(claims, { kid: ["rsa"] }, evil), "malformed kid"],
    ["kid that is null", token(claims, { kid: null }, evil), "malformed kid"],
    ["kid of a secret of the set", token(claims, { kid: "oct" }, evil), "unknownKey kid"],
    // 3.8, 3.9, 3.11, 3.12: a token for somebody or something else
    ["another issuer", token({ ...claims, iss: attacker }), "issuer iss"],
    ["the issuer with a stroke", token({ ...claims, iss: `${issuer}/` }), "issuer iss"],
    ["a list of issuers", token({ ...claims, iss: [issuer] }), "issuer iss"],
    ["no issuer", token({ ...claims, iss: undefined }), "claims iss"],
    ["another audience", token({ ...claims, aud: "payments" }), "audience aud"],
    ["an audience that begins alike", token({ ...claims, aud: ["orders-admin", "order"] }), "audience aud"],
    ["the audience in other letters", token({ ...claims, aud: "Orders" }), "audience aud"],
    ["no audience", token({ ...claims, aud: undefined }), "claims aud"],
    ["an audience of none", token({ ...claims, aud: [] }), "audience aud"],
    ...["dpop+jwt", "logout+jwt", "secevent+jwt", "application/kb+jwt", "", 7, null].map((typ) =>
      [`typ ${JSON.stringify(typ)}`, token(claims, { typ }), "type typ"] as const
    ),
    // times and claims
    ["no exp", token({ ...claims, exp: undefined }), "claims exp"],
    ["exp long ago", token({ ...claims, exp: 1 }), "expired exp"],
    ["exp that is a text", token({ ...claims, exp: `${claims.exp}` }), "claims exp"],
    ["exp without end", token(text(claims).replace(`${claims.exp}`, "1e999")), "claims exp"],
    ["nbf in a century", token({ ...claims, nbf: epoch + 3_153_600_000 }), "notYetValid nbf"],
    [
      "exp twice, the last long ago",
      token(`{"exp":${claims.exp},${text({ ...claims, exp: 1 }).slice(1)}`),
      "expired exp"
    ],
    ["no sub", token({ ...claims, sub: undefined }), "claims sub"],
    ["sub that is empty", token({ ...claims, sub: "" }), "claims sub"],
    ["sub that is true", token({ ...claims, sub: true }), "claims sub"],
    ["claims that are a list", token([claims]), "malformed"],
    ["claims that are null", token("null"), "malformed"],
    ["claims that are no JSON", token("{"), "malformed"],
    [
      "claims that are no UTF-8",
      `${head}.${Buffer.from([0xff, 0xfe]).toString("base64url")}.${signature}`,
      "signature"
    ],
    // 2.4, 3.6: nesting, extensions and size
    ["an encrypted token", encrypted, "malformed"],
    ["a token in a token", token(good, { cty: "JWT" }), "malformed"],
    ["crit that is not understood", token(claims, { crit: ["x"], x: 1 }), "unsupported crit"],
    ["crit of exp", token(claims, { crit: ["exp"], exp: claims.exp }), "unsupported crit"],
    ["crit of nothing", token(claims, { crit: [] }), "unsupported crit"],
    ["crit of b64", token(claims, { crit: ["b64"], b64: false }), "unsupported crit"],
    ["b64 without crit", token(claims, { b64: false }), "unsupported b64"],
    [
      "a payload of bare text",
      `${part({ alg: "RS256", kid: "rsa", b64: false, crit: ["b64"] })}.${text(claims)}.${signature}`,
      "malformed"
    ],
    ["more than 8,192 letters", token({ ...claims, more: "x".repeat(8192) }), "oversized"],
    ["a megabyte", "x".repeat(12_000), "oversized"],
    ["a header of a thousand lists", unsigned("[".repeat(1000) + "]".repeat(1000)), "malformed"],
    ["a header that is a list", unsigned("[]"), "malformed"],
    // forms
    ["a space before", ` ${good}`, "malformed"],
    ["a space behind", `${good} `, "malformed"],
    ["a line behind", `${good}\n`, "malformed"],
    ["a zero behind", `${good}\0`, "malformed"],
    ["a full stop behind", `${good}.`, "malformed"],
    ["a part behind", `${good}.e30`, "malformed"],
    ["filled up", `${good}==`, "malformed"],
    [
      "the letters of base64",
      `${head}.${payload}.${signature.replaceAll("-", "+").replaceAll("_", "/")}+/`,
      "malformed"
    ],
    [
      "unused bits that are set",
      `${head}.${payload}.${signature.slice(0, -1)}${signature.endsWith("A") ? "B" : "_"}`,
      "malformed"
    ],
    ["wide letters", good.replaceAll("e", "\uff45"), "malformed"],
    ["a joiner that nobody sees", `${head}\u200d.${payload}.${signature}`, "malformed"],
    ["a sign of byte order", `\ufeff${good}`, "malformed"],
    ["two tokens", `${good},${good}`, "malformed"],
    ["a scheme twice", `Bearer ${good}`, "malformed"],
    ["nothing", "", "malformed"]
  ]
}

const handler = Auth.middleware()((_message: Envelope) => Effect.map(Auth.Principal, ({ subject }) => subject))

/** What HTTP can carry as it is: no line breaks, no wide letters, and no space at an end. */
const sendable = (credential: string) => /^[\x20-\x7e]*[\x21-\x7e]$/.test(credential)

const listen = (answer: (url: string) => unknown, seen: Array<string>) =>
  Effect.acquireRelease(
    Effect.callback<ReturnType<typeof createServer>>((resume) => {
      const server = createServer({ maxHeaderSize: 65_536 }, (request, response) => {
        seen.push(request.url ?? "")
        response.end(JSON.stringify(answer(request.url ?? "")))
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  ).pipe(Effect.map((server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`))

describe("RFC 8725 and its kind, on messages and on HTTP", () => {
  it.effect("F8 every attack is dead-lettered and answered 401, all alike, and nothing that a token names is asked", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(epoch * 1000)
      const point = jwkOf(ec, "off")
      const set = {
        keys: [
          { kty: "oct", k: part(secret), kid: "oct", alg: "HS256" },
          jwkOf(rsa, "rsa"),
          jwkOf(ec, "ec"),
          jwkOf(weak, "weak"),
          { ...point, y: point.x },
          { ...point, crv: "P-384", kid: "other" }
        ]
      }
      const [read, called]: [Array<string>, Array<string>] = [[], []]
      const keys = yield* listen(() => set, read)
      const foreign = yield* listen(() => ({ keys: [jwkOf(evil, "rsa")] }), called)
      const context = yield* Layer.build(
        Jwt.layer({
          keys: { url: `${keys}/jwks`, refresh: "1 day" },
          algorithms: ["RS256", "ES256"],
          issuer,
          audience: "orders"
        }).pipe(
          Layer.provide(FetchHttpClient.layer)
        )
      )
      const verifier = Context.get(context, Auth.Verifier)
      const base = yield* serveWith(
        Server.layer(Server.route("GET", "/", handler)).pipe(
          HttpRouter.provideRequest(Layer.succeed(Auth.Verifier, verifier))
        )
      )
      const byMessage = (credential: string) =>
        Deliveries.run(handler, Deliveries.make({ headers: { authorization: `Bearer ${credential}` } })).pipe(
          Effect.provideService(Auth.Verifier, verifier),
          Effect.map(({ exit, outcome }) => {
            if (Exit.isSuccess(exit)) return [exit.value, outcome._tag]
            const [reason] = exit.cause.reasons
            const error = reason?._tag === "Fail" ? reason.error : undefined
            return [
              error instanceof Auth.Unauthorized ? `${error.reason} ${error.claim ?? ""}`.trim() : String(error),
              outcome._tag
            ]
          })
        )
      const byRequest = (credential: string) =>
        Effect.map(
          Effect.promise(() => call(base, "/", { headers: { authorization: `Bearer ${credential}` } })),
          ({ headers, json, status }) => {
            const { requestId: _, ...problem } = status === 200 ? { requestId: "", subject: json() } : json()
            return JSON.stringify([status, headers["www-authenticate"], problem])
          }
        )
      const fine = [good, token(claims, {}, ec), token(claims, { kid: undefined }), token(claims, { typ: "at+jwt" })]
      // the last of two claims counts, as RFC 7519, 4 allows: it is what was signed, read one way by all
      fine.push(token(`{"sub":"eve",${text(claims).slice(1)}`))
      for (const each of fine) {
        assert.deepStrictEqual(yield* byMessage(each), ["ada", "Ack"])
        assert.strictEqual(yield* byRequest(each), `[200,null,{"subject":"ada"}]`)
      }
      const list = yield* Effect.promise(() => attacks(`${foreign}/jwks`))
      let sent = 0
      for (const [name, credential, reason] of list) {
        // an unknown key id is only known to be unknown by a reading of its own
        yield* TestClock.adjust("30 seconds")
        assert.deepStrictEqual(yield* byMessage(credential), [reason, "DeadLetter"], name)
        if (!sendable(credential)) continue
        sent++
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(
          yield* byRequest(credential),
          `[401,${
            JSON.stringify("Bearer error=\"invalid_token\"")
          },{"type":"about:blank","title":"Unauthorized","status":401,"failure":"auth"}]`,
          name
        )
      }
      assert.isAbove(sent, 90)
      assert.deepStrictEqual(called, [])
      assert.deepStrictEqual(Array.from(new Set(read)), ["/jwks"])
      assert.deepStrictEqual(yield* byMessage(good), ["ada", "Ack"])
    }).pipe(Effect.scoped))
})
