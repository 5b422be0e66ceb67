/**
 * The errors of encryption.
 */
import { Failure } from "@millrace/core"
import { Data, type Duration } from "effect"

/** A key id as error texts show it: quoted, at most 64 characters. The id of a received envelope is anybody's text. */
const shown = (id: string): string => JSON.stringify(Failure.messageOf(id, 64))

/**
 * The body does not open: it was changed, moved from another channel or key, or given another content type; or a newer version wrote
 * it. Class `poison`. It has no further detail, which would help an attacker more than a reader.
 */
export class Tampered extends Data.TaggedError("Tampered")<{ readonly channel: string; readonly version: number }> {
  readonly failure = "poison" as const
  override get message(): string {
    return this.version === 1 || this.version === 2
      ? `The encrypted body on ${this.channel} does not open: it was changed, or written for another channel, key, content type or bound header.`
      : `The encrypted body on ${this.channel} has version ${this.version}, and this release reads versions 1 and 2: update @millrace/crypto.`
  }
}

/** The body is not encrypted, and the channel accepts no plaintext. Class `poison`. */
export class Unencrypted extends Data.TaggedError("Unencrypted")<{ readonly channel: string }> {
  readonly failure = "poison" as const
  override get message(): string {
    return `The body on ${this.channel} is not encrypted. While publishers change over, plaintext.acceptUntil accepts such bodies until a date.`
  }
}

/** The key of a body was revoked. Class `permanent`. */
export class KeyRevoked extends Data.TaggedError("KeyRevoked")<{ readonly keyId: string }> {
  readonly failure = "permanent" as const
  override get message(): string {
    return `The key ${shown(this.keyId)} is revoked: bodies that it encrypted are not read.`
  }
}

/** The source of keys was asked and does not have the key. Class `poison`. */
export class KeyUnknown extends Data.TaggedError("KeyUnknown")<{ readonly keyId: string }> {
  readonly failure = "poison" as const
  override get message(): string {
    return `The key ${shown(this.keyId)} is not in the key set: add it, and replay the message.`
  }
}

/** Keys cannot be read now. Class `dependency`: the message returns to its source and is retried. */
export class KeysUnavailable extends Data.TaggedError("KeysUnavailable")<{
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}

/** The key of a data subject was erased. Class `permanent`. */
export class SubjectErased extends Data.TaggedError("SubjectErased")<{ readonly path: string }> {
  readonly failure = "permanent" as const
  override get message(): string {
    return `The data subject of ${this.path} is erased: its values are neither read nor written.`
  }
}
