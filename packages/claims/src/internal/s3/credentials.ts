/** Credentials of a store in S3, which may expire. */
import { Clock, Data, Effect } from "effect"
import type { Credentials } from "./signature.ts"

/** Milliseconds before their end at which credentials are replaced. */
const early = 60_000

/** Milliseconds for which credentials without an end are kept. */
const unknownLife = 5 * 60_000

/** Milliseconds that the source may take. */
const patience = 10_000

const endOf = ({ expiresAt }: Credentials): number | undefined =>
  expiresAt === undefined ? undefined : typeof expiresAt === "number" ? expiresAt : expiresAt.getTime()

const isComplete = ({ accessKeyId, secretAccessKey }: Credentials): boolean =>
  accessKeyId !== "" && secretAccessKey !== ""

class EmptyCredentials extends Data.TaggedError("EmptyCredentials") {
  override readonly message = "the source of credentials gave an empty accessKeyId or secretAccessKey"
}

/** Credentials that are kept until shortly before they end. */
export interface Held {
  readonly get: Effect.Effect<Credentials, unknown>
  /** Asks the source at the next call, as the server has refused the last ones. */
  readonly forget: () => void
}

/**
 * Keeps the credentials of a source. While the source fails, the last ones are used until they end.
 *
 * @throws RangeError, which names the module, where constant credentials are empty
 */
export const held = (module: string, source: Credentials | Effect.Effect<Credentials, unknown>): Held => {
  if (!Effect.isEffect(source)) {
    if (!isComplete(source)) {
      throw new RangeError(
        `${module}: credentials must have an accessKeyId and a secretAccessKey, and one of them is empty`
      )
    }
    return { get: Effect.succeed(source), forget: () => undefined }
  }
  let last: Credentials | undefined
  let renewAt = -Infinity
  const asked = Effect.flatMap(Effect.timeout(source, patience), (found) =>
    isComplete(found)
      ? Effect.succeed(found)
      : Effect.fail(new EmptyCredentials()))
  const get = Effect.flatMap(Clock.currentTimeMillis, (now) => {
    if (last !== undefined && now < renewAt) return Effect.succeed(last)
    return asked.pipe(
      Effect.tap((found) =>
        Effect.sync(() => {
          last = found
          renewAt = (endOf(found) ?? now + unknownLife + early) - early
        })
      ),
      Effect.catch((error) =>
        last !== undefined && now < (endOf(last) ?? Infinity) ? Effect.succeed(last) : Effect.fail(error)
      )
    )
  })
  return {
    get,
    forget: () => {
      renewAt = -Infinity
    }
  }
}
