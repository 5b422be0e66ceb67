/**
 * The record of a key: the fingerprint of the payload, and the message that wrote it.
 */
import { createHash } from "node:crypto"

/** A record of a key and generation; its execution's id follows from those. */
export interface StartRecord {
  readonly fingerprint: string
  /** The identity of the message; empty if it has none. */
  readonly by: string
}

/** SHA-256 of a payload, as base64url. */
export const fingerprintOf = (payload: string): string => createHash("sha256").update(payload).digest("base64url")

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** The fingerprint has 43 characters, and the rest is the identity. */
const at = 43

export const writeRecord = ({ by, fingerprint }: StartRecord): Uint8Array => encoder.encode(`${fingerprint}${by}`)

export const readRecord = (bytes: Uint8Array): StartRecord => {
  const text = decoder.decode(bytes)
  return { fingerprint: text.slice(0, at), by: text.slice(at) }
}
