import { Auth, type Delivery, Eager, type Envelope, type Handler, Idempotency, Outgoing } from "@millrace/core"
import { ApiKey, Hmac, Jwt } from "@millrace/security"
import { Deliveries } from "@millrace/testing"
import { Effect, Exit, Layer, Redacted } from "effect"
import * as jose from "jose"
import { createHmac, createSecretKey, randomBytes, timingSafeEqual } from "node:crypto"
import { type Bench, measure, type Measured, scaled } from "./Bench.ts"

const count = 256

let length = 0
const subject = (_message: Envelope) =>
  Effect.mapEager(Eager.service(Auth.Principal), (principal) => length += principal.subject.length)

/** As an engine does it: what is there at once costs no step of a fiber. */
const run = <R>(
  handler: Handler<Delivery, unknown, unknown, R>,
  messages: ReadonlyArray<Delivery> | ((i: number) => Delivery),
  layer: Layer.Layer<R>,
  most?: number
): Promise<Measured> => {
  const at = typeof messages === "function" ? messages : (i: number) => messages[i % messages.length]!
  return measure((total) => {
    let i = 0
    const flow: Effect.Effect<void, unknown, R> = Effect.suspend(() => {
      while (i < total) {
        const message = at(i++)
        const result = handler(message)
        // the hooks of an engine's message are gone with it
        message.hooks = undefined
        if (!Eager.isDone(result)) return Effect.flatMap(result, () => flow)
        if (result._tag === "Failure") return result
      }
      return Effect.void
    })
    return Effect.runPromise(Effect.provide(flow, layer))
  }, most === undefined ? {} : { most })
}

const claims = { iss: "https://issuer.example", aud: "orders", sub: "ada", scope: "orders:write" }

const tokenOf = async (alg: "RS256" | "ES256" | "HS256") => {
  const pair = alg === "HS256" ? undefined : await jose.generateKeyPair(alg, { extractable: true })
  const secret = new Uint8Array(randomBytes(32))
  const token = await new jose.SignJWT(claims).setProtectedHeader({ alg, typ: "JWT" }).setExpirationTime("1 day")
    .sign(pair?.privateKey ?? secret)
  return { token, key: pair?.publicKey ?? secret, publicKey: pair?.publicKey }
}

const verifier = (publicKey: jose.CryptoKey) =>
  Jwt.layer({ keys: { publicKey }, algorithms: ["RS256"], issuer: claims.iss, audience: claims.aud })

// each message's header is a text of its own, as it is when it was read from a broker
const bearing = (token: string): Delivery =>
  Deliveries.make({ headers: { authorization: Buffer.from(`Bearer ${token}`).toString() } })

const kept = async (): Promise<Measured> => {
  const { publicKey, token } = await tokenOf("RS256")
  const messages = Array.from({ length: count }, () => bearing(token))
  return run(Auth.middleware()(subject), messages, verifier(publicKey!))
}

/** One message of a hundred has a token that was never seen; more of them than the runs meet. */
const mostlyKnown = async (): Promise<Measured> => {
  const pair = await jose.generateKeyPair("RS256")
  const most = 100_000
  const signed = (sub: string) =>
    new jose.SignJWT({ ...claims, sub }).setProtectedHeader({ alg: "RS256", typ: "JWT" }).setExpirationTime("1 day")
      .sign(pair.privateKey)
  const known = bearing(await signed("ada"))
  const fresh = await Promise.all(
    Array.from({ length: scaled(most * 2) / 100 + 100 }, async (_, i) => bearing(await signed(`caller-${i}`)))
  )
  let next = 0
  const layer = Layer.succeedContext(await Effect.runPromise(Effect.scoped(Layer.build(verifier(pair.publicKey)))))
  return run(Auth.middleware()(subject), (i) => i % 100 === 99 ? fresh[next++]! : known, layer, most)
}

const joses = (alg: "RS256" | "ES256" | "HS256") => async (): Promise<Measured> => {
  const { key, token } = await tokenOf(alg)
  return measure(async (total) => {
    for (let i = 0; i < total; i++) {
      const { payload } = await jose.jwtVerify(token, key, {
        algorithms: [alg],
        issuer: claims.iss,
        audience: claims.aud,
        requiredClaims: ["sub", "exp"]
      })
      length += payload.sub!.length
    }
  })
}

const apiKey = (pepper: Redacted.Redacted<string> | undefined) => async (): Promise<Measured> => {
  const { hash, id, key } = await Effect.runPromise(ApiKey.generate({ prefix: "acme_live", pepper }))
  const store = ApiKey.layerMemory(new Map([[id, { hashes: [{ hash }], subject: "ada" }]]))
  const messages = Array.from(
    { length: count },
    () => Deliveries.make({ headers: { "x-api-key": Buffer.from(Redacted.value(key)).toString() } })
  )
  return run(
    Auth.middleware({ header: "x-api-key", scheme: "" })(subject),
    messages,
    ApiKey.layer({ prefix: "acme_live", pepper }).pipe(Layer.provide(store))
  )
}

const secret = `whsec_${randomBytes(32).toString("base64")}`
const keys: Hmac.Keys = [{ name: "partner", secret: Redacted.make(secret) }]
const body = new Uint8Array(randomBytes(1024))

const signedMessages = (): ReadonlyArray<Delivery> => {
  const write = Hmac.sign({ keys })((message: Outgoing<Uint8Array>) => Exit.succeed(message.headers))
  return Array.from({ length: count }, (_, position) =>
    Deliveries.make({
      position,
      body,
      headers: Effect.runSync(write(new Outgoing("orders", body, undefined, {})))
    }))
}

const long = { keys, tolerance: "1 day" } as const

/** What the specification asks for, by hand: no ids, no times, no names. */
const byHand = (): Promise<Measured> => {
  const key = createSecretKey(Buffer.from(secret.slice(6), "base64"))
  const messages = signedMessages()
  return measure((total) => {
    for (let i = 0; i < total; i++) {
      const { headers, payload } = messages[i % count]!
      const own = createHmac("sha256", key).update(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`)
        .update(payload).digest("base64")
      if (timingSafeEqual(Buffer.from(own), Buffer.from(headers["webhook-signature"]!.slice(3)))) length++
    }
  })
}

/** F8: what it costs to know who sent a message, beside a signature that is checked for each. */
export const security: Bench = {
  name: "security",
  about:
    "the principal of a message: a token that is known, an API key, a signature of 1 KiB; beside jose for each message",
  rounds: 3,
  variants: [
    { name: "millrace, token that is known", whose: "millrace", run: kept },
    { name: "millrace, 99 of 100 tokens known", whose: "millrace", run: mostlyKnown },
    { name: "millrace, API key", whose: "millrace", run: apiKey(undefined) },
    {
      name: "millrace, API key with a pepper",
      whose: "millrace",
      run: apiKey(Redacted.make("a pepper of more than thirty-two bytes"))
    },
    {
      name: "millrace, signature",
      whose: "millrace",
      run: () => run(Hmac.verify({ ...long, replay: "allow" })(subject), signedMessages(), Layer.empty)
    },
    {
      name: "millrace, signature, remembered",
      whose: "millrace",
      run: () => run(Hmac.verify(long)(subject), signedMessages(), Idempotency.layerMemory())
    },
    { name: "jose, RS256 each", whose: "peer", run: joses("RS256") },
    { name: "jose, ES256 each", whose: "peer", run: joses("ES256") },
    { name: "jose, HS256 each", whose: "peer", run: joses("HS256") },
    { name: "node:crypto, HMAC of 1 KiB", whose: "limit", run: byHand }
  ],
  goals: [
    {
      id: "P10",
      text: "99 of 100 tokens known, times cheaper than jose with RS256",
      target: 80,
      better: "higher",
      measured: (of) => of("jose, RS256 each").cpu / of("millrace, 99 of 100 tokens known").cpu
    },
    {
      id: "F8",
      text: "a known token, times cheaper than jose with RS256",
      target: 40,
      better: "higher",
      measured: (of) => of("jose, RS256 each").cpu / of("millrace, token that is known").cpu
    },
    {
      id: "F8",
      text: "an API key, times cheaper than jose with HS256",
      target: 3,
      better: "higher",
      measured: (of) => of("jose, HS256 each").cpu / of("millrace, API key").cpu
    },
    {
      id: "F8",
      text: "a signature of 1 KiB, times the HMAC by hand",
      target: 2,
      better: "lower",
      measured: (of) => of("millrace, signature").cpu / of("node:crypto, HMAC of 1 KiB").cpu
    }
  ]
}
