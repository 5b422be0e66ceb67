/**
 * Tokens of SASL OAUTHBEARER: obtained at each connection, and the broker's reason for refusing one.
 */
import { type BrokerError, Credentials } from "@millrace/core"
import { Effect, Redacted } from "effect"

/** A token of an identity provider. */
export interface Token extends Credentials.Issued {
  readonly token: string | Redacted.Redacted
}

/** Obtains tokens; an error of the caller's is told in its message. */
export type Source = Credentials.Source<Token>

/** A token, as the client libraries take it. */
export interface Tokens {
  /** For a connection; rejects with a `BrokerError`. */
  readonly next: () => Promise<string>
  /** A text without tokens. */
  readonly redact: (text: string) => string
}

const plain = (token: string | Redacted.Redacted): string => typeof token === "string" ? token : Redacted.value(token)

/** Tokens of a source, or one token for all connections. */
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
 * The error of an answer that refuses the token, or undefined where it was accepted: Kafka puts the refusal into an answer that
 * is otherwise a success (RFC 7628, 3.2.2).
 */
export const refusalIn = (answer: Uint8Array): Error | undefined => {
  if (answer.length === 0) return undefined
  const text = Buffer.from(answer).toString()
  let status: unknown
  try {
    const found: unknown = JSON.parse(text)
    status = typeof found === "object" && found !== null && "status" in found ? found.status : undefined
  } catch {
    // a text that is no JSON is told as it came
  }
  const why = typeof status === "string" ? status : text.slice(0, 200)
  return Object.assign(new Error(why), { name: "TokenRefused", code: "PLT_KFK_AUTHENTICATION" })
}
