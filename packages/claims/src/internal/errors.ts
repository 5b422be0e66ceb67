/** The errors of claims; a store that does not answer is `ClaimStoreUnavailable`. */
import { Data, Duration } from "effect"

/** The reference of a message cannot be read. Class `poison`. */
export class ClaimInvalid extends Data.TaggedError("ClaimInvalid")<{ readonly message: string }> {
  readonly failure = "poison" as const
}

/**
 * The reference names a body of another store, bucket, prefix or channel. Class `poison` when it is read, `validation` when it is published:
 * a reference never makes a reader ask another address.
 */
export class ClaimForeign extends Data.TaggedError("ClaimForeign")<{
  readonly message: string
  readonly failure: "poison" | "validation"
}> {}

/** The body in the store is longer, shorter or other than the reference says, read twice. Class `poison`. */
export class ClaimCorrupt extends Data.TaggedError("ClaimCorrupt")<{ readonly message: string }> {
  readonly failure = "poison" as const
}

/** The body has more bytes than `maximumBytes`. Class `poison` when it is read, `validation` when it is published. */
export class ClaimTooLarge extends Data.TaggedError("ClaimTooLarge")<{
  readonly message: string
  readonly failure: "poison" | "validation"
}> {}

/**
 * The store has no body under the key. Class `dependency` until `grace` has passed since the body was written, then `permanent`.
 */
export class ClaimMissing extends Data.TaggedError("ClaimMissing")<{
  readonly message: string
  readonly failure: "dependency" | "permanent"
  readonly retryAfter?: Duration.Duration | undefined
}> {}

/** The largest share of a sentence that an error shows of a name from outside. */
export const shown = (text: string): string => JSON.stringify(text.length > 64 ? `${text.slice(0, 64)}…` : text)

export const missing = (store: string, key: string, isYoung: boolean, retryAfter: number): ClaimMissing =>
  new ClaimMissing(
    isYoung
      ? {
        message: `The store ${store} does not have ${shown(key)} yet`,
        failure: "dependency",
        retryAfter: Duration.millis(retryAfter)
      }
      : {
        message: `The store ${store} does not have ${
          shown(key)
        }: it was removed, so give bodies a longer retention than messages`,
        failure: "permanent"
      }
  )

export const corrupt = (store: string, key: string, why: string): ClaimCorrupt =>
  new ClaimCorrupt({
    message: `The body ${shown(key)} of the store ${store} ${why}: it was changed after it was written`
  })
