/** SHA-256 of bodies and channels, and names that no other write has. */
import { Effect, Exit } from "effect"
import { createHash, randomFillSync, webcrypto } from "node:crypto"

/** Bodies above it are digested by a thread: a million bytes take half a millisecond. */
const inThread = 1024 * 1024

const hexOf = (bytes: ArrayBuffer): string => Buffer.from(bytes).toString("hex")

const plain = (bytes: Uint8Array): bytes is Uint8Array<ArrayBuffer> => bytes.buffer instanceof ArrayBuffer

/** The SHA-256 of a body, in hexadecimal; an Exit for bodies of up to 1 MiB. */
export const digestOf = (body: Uint8Array): Effect.Effect<string> =>
  body.length <= inThread || !plain(body)
    ? Exit.succeed(createHash("sha256").update(body).digest("hex"))
    : Effect.map(Effect.promise(() => webcrypto.subtle.digest("SHA-256", body)), hexOf)

/** The part of a key that binds a body to its channel: 128 bits of the digest of the channel's name. */
export const channelPart = (channel: string): string => createHash("sha256").update(channel).digest("hex").slice(0, 32)

/** 128 random bits, in hexadecimal. */
export const unique = (): string => randomFillSync(Buffer.allocUnsafe(16)).toString("hex")
