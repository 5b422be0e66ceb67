import { SchemaRegistry } from "@millrace/codecs"
import { Headers, type PayloadCodec } from "@millrace/core"
import { Effect, Exit, Layer, type Scope } from "effect"
import { FetchHttpClient } from "effect/http"

type Needs = Scope.Scope | SchemaRegistry.Registry

/** Runs a program with a registry. */
export const withRegistry = <A, E>(
  options: SchemaRegistry.Options,
  program: Effect.Effect<A, E, Needs>
): Promise<A> =>
  Effect.runPromise(
    Effect.scoped(
      Effect.provide(program, SchemaRegistry.layer(options).pipe(Layer.provide(FetchHttpClient.layer)))
    )
  )

/** The error of a call that fails. */
export const errorOf = <A, R>(
  call: () => Effect.Effect<A, PayloadCodec.PayloadError, R>
): Effect.Effect<PayloadCodec.PayloadError, A, R> => Effect.flip(Effect.suspend(call))

/** A call's value, and whether it was there at once. */
export const at = <A, E, R>(call: () => Effect.Effect<A, E, R>): Effect.Effect<readonly [A, boolean], E, R> =>
  Effect.suspend(() => {
    const answer = call()
    return Effect.map(answer, (value) => [value, Exit.isExit(answer)] as const)
  })

/** A message of a channel, without its body. */
export const around: PayloadCodec.Metadata = {
  system: "kafka",
  channel: "orders",
  key: undefined,
  keyBytes: undefined,
  headers: Headers.empty,
  fields: [],
  attempt: 1,
  timestamp: undefined
}
