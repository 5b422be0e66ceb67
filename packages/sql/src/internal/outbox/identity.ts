/**
 * Identities of the writers and relays of an outbox.
 */
import { Effect, Random } from "effect"

const digits = Effect.map(Random.nextIntBetween(0, 0xffff_ffff), (number) => number.toString(16).padStart(8, "0"))

/** Draws 24 hexadecimal digits at random. */
export const identity: Effect.Effect<string> = Effect.map(
  Effect.all([digits, digits, digits]),
  (parts) => parts.join("")
)
