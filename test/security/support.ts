import { Auth } from "@millrace/core"
import { Jwt } from "@millrace/security"
import { Clock, Context, Effect, Layer } from "effect"
import { HttpClient, HttpClientResponse } from "effect/http"
import * as jose from "jose"

/** 14 November 2023, in seconds. */
export const epoch = 1_700_000_000

export const issuer = "https://issuer.example"

/** Claims that every verifier here takes, at `epoch`. */
export const claims = { iss: issuer, aud: "orders", sub: "ada", exp: epoch + 600 }

export const secret = "a secret of 64 bytes, long enough for the hash of each of HS256 to 512"

/** The algorithms with a key pair. */
export const asymmetric = [
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
  "ES256",
  "ES384",
  "ES512",
  "EdDSA"
] as const

/** A token with any header and claims, right or wrong. */
export const sign = (
  key: jose.CryptoKey | Uint8Array | string,
  payload: object = claims,
  header: { readonly [name: string]: unknown } = {}
): Promise<string> =>
  new jose.CompactSign(new TextEncoder().encode(JSON.stringify(payload)))
    .setProtectedHeader({ alg: "HS256", typ: "JWT", ...header })
    .sign(typeof key === "string" ? new TextEncoder().encode(key) : key)

/** A clock that stands where it is put. */
export const standing = (milliseconds: number): Clock.Clock & { now: number } => {
  const clock = {
    now: milliseconds,
    currentTimeMillisUnsafe: (): number => clock.now,
    currentTimeMillis: Effect.sync((): number => clock.now),
    currentTimeNanosUnsafe: (): bigint => BigInt(clock.now) * 1_000_000n,
    currentTimeNanos: Effect.sync((): bigint => BigInt(clock.now) * 1_000_000n),
    monotonicTimeNanosUnsafe: (): bigint => BigInt(clock.now) * 1_000_000n,
    monotonicTimeNanos: Effect.sync((): bigint => BigInt(clock.now) * 1_000_000n),
    sleep: () => Effect.never
  }
  return clock
}

export const options = { algorithms: ["HS256"], issuer, audience: "orders", keys: { secret } } as const

/** The verifier of a layer without needs, on a clock. */
export const verifierOf = (
  layer: Layer.Layer<Auth.Verifier>,
  clock: Clock.Clock
): Promise<Auth.Verifier["Service"]> =>
  Effect.runPromise(
    Effect.scoped(Layer.build(layer)).pipe(
      Effect.map(Context.get(Auth.Verifier)),
      Effect.provideService(Clock.Clock, clock)
    )
  )

/** The subject, or why it was refused. */
export const ask = (verifier: Auth.Verifier["Service"], token: string): Promise<string> =>
  Effect.runPromise(
    verifier.verify(token).pipe(
      Effect.map((principal) => principal.subject),
      Effect.catchTags({
        Unauthorized: (error) => Effect.succeed(`${error.reason}${error.claim === undefined ? "" : ` ${error.claim}`}`),
        AuthUnavailable: (error) => Effect.succeed(error._tag)
      })
    )
  )

/** What one set of options says of one token at `epoch`. */
export const verdict = async (
  token: string,
  other: Partial<Jwt.Options & { readonly keys: Jwt.LocalKeys }> = {}
): Promise<string> => ask(await verifierOf(Jwt.layer({ ...options, ...other }), standing(epoch * 1000)), token)

/** An issuer whose key set, and whose health, the test decides. */
export const issuerOf = (first: jose.JSONWebKeySet) => {
  const state = {
    keys: first as unknown,
    status: 200,
    headers: {} as Record<string, string>,
    answer: Effect.void as Effect.Effect<void>,
    asked: 0
  }
  const layer = Layer.succeed(
    HttpClient.HttpClient,
    HttpClient.make((request) =>
      Effect.suspend(() => {
        state.asked++
        return Effect.map(
          state.answer,
          () =>
            HttpClientResponse.fromWeb(
              request,
              new Response(JSON.stringify(state.keys), { status: state.status, headers: state.headers })
            )
        )
      })
    )
  )
  return { state, layer }
}
