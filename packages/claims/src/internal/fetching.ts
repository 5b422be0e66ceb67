/** Reads bodies from a store, whole or as a stream, and verifies their length and digest. */
import { Effect, Exit, Stream } from "effect"
import { createHash } from "node:crypto"
import { ClaimStoreUnavailable, type Store } from "../ClaimStore.ts"
import { digestOf } from "./digest.ts"
import { type ClaimCorrupt, type ClaimMissing, corrupt, missing } from "./errors.ts"
import type { Reference } from "./reference.ts"

/** The limits of reading, in milliseconds. */
export interface Patience {
  readonly grace: number
  readonly retryAfter: number
  readonly timeout: number
}

/** Fails for a store that is silent for longer than `millis`. */
export const limited = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  store: string,
  millis: number
): Effect.Effect<A, E | ClaimStoreUnavailable, R> =>
  Effect.timeoutOrElse(effect, { duration: millis, orElse: () => Effect.fail(silent(store, millis)) })

const silent = (store: string, millis: number) =>
  new ClaimStoreUnavailable({ message: `The store ${store} gave no answer in ${millis} ms` })

/** Whether a body may still appear: a clock that is ahead, or a forged time, gives no longer grace. */
const isYoung = (time: number, now: number, { grace }: Patience): boolean => Math.abs(now - time) < grace

/** Reads a body that is known to be small enough, and verifies it; a wrong one is read once more before it is corrupt. */
export const whole = (
  store: Store["Service"],
  reference: Reference,
  now: number,
  patience: Patience
): Effect.Effect<Uint8Array, ClaimStoreUnavailable | ClaimMissing | ClaimCorrupt> => {
  const { key, sha256, size, time } = reference
  const attempt = (isLast: boolean): Effect.Effect<Uint8Array, ClaimStoreUnavailable | ClaimMissing | ClaimCorrupt> => {
    const wrong = (why: string) => isLast ? Exit.fail(corrupt(store.name, key, why)) : attempt(true)
    return Effect.flatMap(limited(store.read(key, size + 1), store.name, patience.timeout), (body) => {
      if (body === undefined) {
        return Exit.fail(missing(store.name, key, isYoung(time, now, patience), patience.retryAfter))
      }
      if (body.length !== size) {
        return wrong(
          `has ${body.length > size ? `more than ${size}` : body.length} bytes, and its reference says ${size}`
        )
      }
      return Effect.flatMap(
        digestOf(body),
        (digest) => digest === sha256 ? Exit.succeed(body) : wrong("has another digest than its reference says")
      )
    })
  }
  return attempt(false)
}

/** Streams a body from an offset; the digest is verified at its end, if it was read from its beginning. */
export const streamed = (
  store: Store["Service"],
  { key, sha256, size, time }: Reference,
  offset: number,
  now: Effect.Effect<number>,
  patience: Patience
): Stream.Stream<Uint8Array, ClaimStoreUnavailable | ClaimMissing | ClaimCorrupt> =>
  Stream.unwrap(
    Effect.flatMap(limited(store.open(key, offset), store.name, patience.timeout), (body) => {
      if (body === undefined) {
        return Effect.flatMap(
          now,
          (at) => Effect.fail(missing(store.name, key, isYoung(time, at, patience), patience.retryAfter))
        )
      }
      const hash = createHash("sha256")
      let seen = offset
      const fail = (why: string) => corrupt(store.name, key, why)
      const checked = body.pipe(
        Stream.timeoutOrElse({
          duration: patience.timeout,
          orElse: () => Stream.fail(silent(store.name, patience.timeout))
        }),
        Stream.mapEffect((chunk) => {
          seen += chunk.length
          if (seen > size) return Exit.fail(fail(`has more than ${size} bytes`))
          if (offset === 0) hash.update(chunk)
          return Exit.succeed(chunk)
        })
      )
      const end = Stream.suspend(() =>
        seen !== size
          ? Stream.fail(fail(`ends after ${seen} of ${size} bytes`))
          : offset === 0 && hash.digest("hex") !== sha256
          ? Stream.fail(fail("has another digest than its reference says"))
          : Stream.empty
      )
      return Effect.succeed(Stream.concat(checked, end))
    })
  )
