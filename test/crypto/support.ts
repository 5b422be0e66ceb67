import { type Encryption, Keys } from "@millrace/crypto"
import { Effect, Exit, Redacted } from "effect"
import { assert } from "vitest"

/** A secret whose 32 bytes are all this one: tests must not depend on chance. */
export const secretOf = (byte: number): Redacted.Redacted<Uint8Array> => Redacted.make(new Uint8Array(32).fill(byte))

export const keys = Keys.layerMemory({ keys: { new: secretOf(1), old: secretOf(2), gone: "revoked" }, writing: "new" })

export const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text)

export const orders: Encryption.Context = {
  channel: "orders",
  key: bytesOf("customer-7"),
  contentType: "application/json",
  headers: {}
}

/** Runs synchronous code on a fiber that has the keys: encryption answers Exits there, as on a message's fiber. */
export const within = <A>(body: () => A, layer = keys): Promise<A> =>
  Effect.runPromise(Effect.provide(Effect.andThen(Keys.Ring, Effect.sync(body)), layer))

/** The value of an effect that has finished, or the tag of its error. */
export const told = <A, E extends { readonly _tag: string }>(effect: Effect.Effect<A, E, Keys.Ring>): A | E["_tag"] => {
  assert.isTrue(Exit.isExit(effect), "it suspends")
  const exit = effect as unknown as Exit.Exit<A, E>
  if (Exit.isSuccess(exit)) return exit.value
  const [reason] = exit.cause.reasons
  assert.isTrue(reason?._tag === "Fail", String(exit.cause))
  return (reason as unknown as { readonly error: E }).error._tag
}

/** The envelope of a body. */
export const sealed = (
  encryption: Encryption.Encryption,
  body: Uint8Array,
  context: Encryption.Context = orders
): Uint8Array => {
  const envelope = told(encryption.seal(body, context))
  assert.instanceOf(envelope, Uint8Array)
  return envelope
}
