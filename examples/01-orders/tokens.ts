/**
 * An issuer of tokens: one key pair, whose public half is all that the pipeline knows of it.
 */
import type { Auth } from "@millrace/core"
import { Jwt } from "@millrace/security"
import { Context, Effect, Layer } from "effect"
import { exportJWK, generateKeyPair, SignJWT } from "jose"

/** `forged` is signed by a key that is not the issuer's, and says that it is. */
export type Kind = "good" | "expired" | "forged"

export class Issuer extends Context.Service<Issuer, {
  readonly token: (customer: string, kind: Kind) => Effect.Effect<string>
  readonly jwks: Jwt.LocalKeys
}>()("examples/orders/Issuer") {}

const algorithm = "EdDSA"
const issuer = "https://accounts.example"
const audience = "orders"

export const layerIssuer = Layer.effect(
  Issuer,
  Effect.promise(async () => {
    const [own, stranger] = await Promise.all([generateKeyPair(algorithm), generateKeyPair(algorithm)])
    const kid = "2026"
    const made = new Map<string, Promise<string>>()
    const sign = (customer: string, kind: Kind) =>
      new SignJWT({ scope: "orders:write" })
        .setProtectedHeader({ alg: algorithm, kid })
        .setSubject(customer)
        .setIssuer(issuer)
        .setAudience(audience)
        .setExpirationTime(kind === "expired" ? "1 hour ago" : "1 hour")
        .sign(kind === "forged" ? stranger.privateKey : own.privateKey)
    return Issuer.of({
      jwks: { jwks: { keys: [{ ...await exportJWK(own.publicKey), alg: algorithm, kid }] } },
      token: (customer, kind) =>
        Effect.promise(() => {
          const name = `${kind} ${customer}`
          const token = made.get(name) ?? sign(customer, kind)
          made.set(name, token)
          return token
        })
    })
  })
)

/** Verifies the issuer's tokens. */
export const layerVerifier: Layer.Layer<Auth.Verifier, never, Issuer> = Layer.unwrap(
  Effect.map(Issuer, ({ jwks }) => Jwt.layer({ keys: jwks, algorithms: [algorithm], issuer, audience }))
)
