/**
 * Publishing to streams, and the reasons for a missing confirmation.
 *
 * A confirmation means that the stream has stored the message on a majority of its replicas. If the connection ends first,
 * the message may be stored or not, and the publish fails with `Lost`.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { Effect, Exit, type Scope } from "effect"
import type { ResolvedOptions } from "./Options.ts"
import { OutboundQueue } from "./OutboundQueue.ts"
import * as Topology from "./Topology.ts"
import type { Client, Connection } from "../Connection.ts"
import * as Errors from "../Errors.ts"

type Failed = BrokerError.BrokerError
type Batch = ReadonlyArray<Outgoing<Uint8Array>>

/** Publishes to streams. */
export interface Publisher {
  readonly publish: (batch: Batch) => Effect.Effect<void, Failed>
}

/** Makes a publisher that lives as long as the scope. */
export const make = (client: Client, settings: ResolvedOptions): Effect.Effect<Publisher, never, Scope.Scope> =>
  Effect.gen(function*() {
    let queue: OutboundQueue | undefined
    let of: Connection | undefined
    // the queue of the replaced connection
    let before: OutboundQueue | undefined
    const publishOn = (connection: Connection, batch: Batch): Effect.Effect<void, Failed> => {
      if (of !== connection || queue === undefined) {
        before = queue
        of = connection
        queue = new OutboundQueue(connection, settings, client.options.inboxPrefix)
      }
      const own = queue
      // keeps order: messages queued on the replaced connection go first
      return before === undefined || before.isIdle
        ? own.publish(batch)
        : Effect.andThen(before.idle, own.publish(batch))
    }
    const { place, requestTimeout } = client.options
    const leaderless = (channel: string): Failed =>
      Errors.make(
        "publish",
        "Lost",
        `The stream of ${channel} at ${place.servers} does not answer, as while its servers choose a leader: try again.`
      )
    const late = new WeakSet<Failed>()
    const tooLate = (channel: string): Failed => {
      const error = Errors.make(
        "publish",
        "Lost",
        `NATS at ${place.servers} has not confirmed a message for ${channel} in ${requestTimeout} ms: it may have been written, or not.`
      )
      late.add(error)
      return error
    }
    const beat = Effect.sync(() => {
      before?.beat(tooLate)
      queue?.beat(tooLate)
    })
    yield* Effect.forkScoped(
      Effect.forever(Effect.andThen(Effect.sleep(requestTimeout / 4), beat))
    )
    const once = (batch: Batch): Effect.Effect<void, Failed> => {
      const { open } = client
      return open === undefined
        ? Effect.flatMap(client.connection("publish"), (connection) => publishOn(connection, batch))
        : publishOn(open, batch)
    }
    const streams = new Map<string, Effect.Effect<void, Failed>>()
    /**
     * Checks that a stream holds the channel; fails with `NotFound` if none does. Publishes that fail within 250 ms share
     * one lookup.
     */
    const held = (channel: string): Effect.Effect<void, Failed> =>
      Effect.suspend(() => {
        const known = streams.get(channel)
        if (known !== undefined) return known
        const refusing = { ...settings, missing: "refuse" } as const
        const ask = Effect.flatMap(
          client.connection("publish"),
          (connection) => Topology.sourceFor(client, refusing, connection, "publish", channel)
        )
        return Effect.flatMap(Effect.cachedWithTTL(Effect.asVoid(ask), "250 millis"), (shared) => {
          if (streams.size > 1000) streams.clear()
          streams.set(channel, shared)
          return shared
        })
      })
    /**
     * Finds the reason for a missing confirmation. The server's answer is the same for a stream without a leader and for a
     * subject that no stream holds, and if another program subscribes to that subject, there is no answer at all.
     */
    const explain = (given: Failed, batch: Batch): Effect.Effect<void, Failed> => {
      const isUnheard = given.reason === "NotFound"
      if (!isUnheard && !late.has(given)) return Exit.fail(given)
      return Effect.forEach(new Set(batch.map(({ channel }) => channel)), held, { discard: true }).pipe(
        Effect.catch((found) => Exit.fail(isUnheard || found.reason === "NotFound" ? found : given)),
        Effect.andThen(Exit.fail(isUnheard ? leaderless(batch[0]!.channel) : given))
      )
    }
    const create = (batch: Batch): Effect.Effect<void, Failed> =>
      Effect.flatMap(client.connection("publish"), (connection) =>
        Effect.forEach(
          new Set(batch.map(({ channel }) => channel)),
          (channel) => Topology.sourceFor(client, settings, connection, "publish", channel),
          { discard: true }
        ))
    const known = new Set<string>()
    return {
      publish: (batch) => {
        if (batch.length === 0) return Exit.void
        // created before anything is written; otherwise later messages of the batch would overtake those that found no
        // stream
        const isReady = settings.missing === "refuse" || batch.every(({ channel }) => known.has(channel))
        const ready = isReady
          ? Exit.void
          : Effect.map(create(batch), () => {
            if (known.size > 10_000) known.clear()
            for (const { channel } of batch) known.add(channel)
          })
        return Effect.catch(Effect.flatMap(ready, () => once(batch)), (error) => {
          for (const { channel } of batch) known.delete(channel)
          return explain(error, batch)
        })
      }
    }
  })
