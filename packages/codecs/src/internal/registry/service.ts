/** The registry as codecs use it: each schema is asked for once, and a known one is answered as an Exit. */
import { Detached, type PayloadCodec } from "@millrace/core"
import { Context, Deferred, Effect, Exit, FiberSet } from "effect"
import type { HttpClient } from "effect/http"
import * as Requests from "./client.ts"

type Failed = PayloadCodec.PayloadError

/** Schemas by id, and ids by schema. Known ones are answered at once, as an Exit: an id never changes its schema. */
export class SchemaRegistryService extends Context.Service<SchemaRegistryService, {
  /** Returns the schema of an id, or of a GUID as text. */
  readonly schemaOf: (id: number | string) => Effect.Effect<Requests.Registered, Failed>
  /** Returns id and GUID of a schema under a subject. */
  readonly identityOf: (
    subject: string,
    schema: Requests.Unregistered,
    how: Requests.Lookup
  ) => Effect.Effect<Requests.Identity, Failed>
  /** Returns the latest schema of a subject; fails if ours is not compatible with it. */
  readonly latest: (subject: string, schema: Requests.Unregistered) => Effect.Effect<Requests.Latest, Failed>
}>()("SchemaRegistry/Registry") {}

/** Answers for ever once an effect has succeeded; callers that come meanwhile share it. */
const kept = <A>(
  most: number,
  fork: (effect: Effect.Effect<void>) => unknown
) => {
  const known = new Map<string | number, Exit.Exit<A, Failed>>()
  const asked = new Map<string | number, Deferred.Deferred<A, Failed>>()
  return (name: string | number, ask: () => Effect.Effect<A, Failed>): Effect.Effect<A, Failed> => {
    const found = known.get(name)
    if (found !== undefined) return found
    const before = asked.get(name)
    if (before !== undefined) return Deferred.await(before)
    const waiting = Deferred.makeUnsafe<A, Failed>()
    asked.set(name, waiting)
    // on a fiber of the layer: the interruption of one caller does not end it for the others
    fork(Effect.flatMap(Effect.exit(Detached.effect(ask())), (exit) =>
      Effect.sync(() => {
        asked.delete(name)
        if (Exit.isSuccess(exit)) {
          const oldest = known.keys().next()
          if (known.size >= most && oldest.done !== true) known.delete(oldest.value)
          known.set(name, exit)
        }
        Deferred.doneUnsafe(waiting, exit)
      })))
    return Deferred.await(waiting)
  }
}

/** Makes the service over one registry, which keeps `cache` schemas, ids and latest schemas. */
export const make = (http: HttpClient.HttpClient, settings: Requests.Settings, cache: number) =>
  Effect.map(FiberSet.makeRuntime(), (run): SchemaRegistryService["Service"] => {
    const client = new Requests.Client(http, settings)
    const schemas = kept<Requests.Registered>(cache, run)
    const ids = kept<Requests.Identity>(cache, run)
    const latest = kept<Requests.Latest>(cache, run)
    return {
      schemaOf: (id) => schemas(id, () => client.schemaOf(id)),
      identityOf: (subject, schema, how) =>
        ids(
          JSON.stringify([subject, schema, how.normalize]),
          () => client.identityOf(subject, schema, how)
        ),
      latest: (subject, schema) => latest(JSON.stringify([subject, schema]), () => client.latest(subject, schema))
    }
  })
