/**
 * Tokens of SASL OAUTHBEARER: obtaining one for each connection, and reading the broker's reason for a refusal.
 */
import { type BrokerError, Credentials, DriverOptions } from "@millrace/core"
import { Effect, type Redacted } from "effect"

/** A token of an identity provider. */
export interface Token extends Credentials.Issued {
  readonly token: string | Redacted.Redacted
}

/** Obtains tokens. The connection's error message includes the error of the source. */
export type Source = Credentials.Source<Token>

/** The tokens in the form that client libraries take. */
export interface Tokens {
  /** Obtains a token for one connection; rejects with a `BrokerError`. */
  readonly next: () => Promise<string>
  /** Removes tokens from a text. */
  readonly redact: (text: string) => string
}

const { plain } = DriverOptions

/** Makes tokens from a source, or uses one token for all connections. */
export const make = (given: string | Redacted.Redacted | Source): Tokens => {
  const credentials = Credentials.make<Token>({
    system: "kafka",
    product: "Kafka",
    source: Effect.isEffect(given) ? given : Effect.succeed({ token: given }),
    refuse: ({ token }) => /^[\x21-\x7e]+$/.test(plain(token)) ? undefined : "the token is empty or has a blank",
    secrets: ({ token }) => [plain(token)]
  })
  const next: Effect.Effect<string, BrokerError.BrokerError> = Effect.map(credentials.get, ({ token }) => plain(token))
  return { next: () => Effect.runPromise(next), redact: credentials.redact }
}

/**
 * Reads the error from an answer that refuses the token; undefined if the token was accepted. Kafka puts the refusal into an
 * otherwise successful answer (RFC 7628, 3.2.2).
 */
export const refusalIn = (answer: Uint8Array): Error | undefined => {
  if (answer.length === 0) return undefined
  const text = Buffer.from(answer).toString()
  let status: unknown
  try {
    const found: unknown = JSON.parse(text)
    status = typeof found === "object" && found !== null && "status" in found ? found.status : undefined
  } catch {
    // a text that is not JSON is reported unchanged
  }
  const why = typeof status === "string" ? status : text.slice(0, 200)
  return Object.assign(new Error(why), { name: "TokenRefused", code: "PLT_KFK_AUTHENTICATION" })
}
