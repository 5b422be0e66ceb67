/**
 * Tokens of callers: signed with a secret that the API shares with whoever issues them.
 */
import { Jwt } from "@millrace/security"
import { Effect, Redacted } from "effect"
import { SignJWT } from "jose"

const issuer = "https://accounts.example"
const audience = "transfers"

export const scope = "transfers:write"

/** Verifies tokens; a name and an algorithm that a token chooses for itself are not believed. */
export const layer = (secret: Redacted.Redacted) =>
  Jwt.layer({ keys: { secret }, algorithms: ["HS256"], issuer, audience })

/** A token of an hour, for trying it out. */
export const issue = (secret: Redacted.Redacted, subject: string) =>
  Effect.promise(() =>
    new SignJWT({ scope })
      .setProtectedHeader({ alg: "HS256" })
      .setSubject(subject)
      .setIssuer(issuer)
      .setAudience(audience)
      .setExpirationTime("1 hour")
      .sign(new TextEncoder().encode(Redacted.value(secret)))
  )
