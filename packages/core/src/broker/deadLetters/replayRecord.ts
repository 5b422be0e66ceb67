/**
 * The record of the replays from a dead letter channel, kept on a channel beside it: it names each letter before its publish
 * and again after, so that a replay that ended in the middle can be run again.
 */
import { Effect, Result, Stream } from "effect"
import * as Base64 from "effect/encoding/Base64"
import * as Base64Url from "effect/encoding/Base64Url"
import type { Delivery } from "../../message/Message.ts"
import { Outgoing } from "../../message/Message.ts"
import { sha256 } from "../../message/sha256.ts"
import type { Broker } from "../Broker.ts"
import type { BrokerError } from "../../driver/BrokerError.ts"
import { replayId } from "./letter.ts"

/** The channel of the record of a dead letter channel: `NAME.replayed`. */
export const channelOf = (deadLetters: string): string => `${deadLetters}.replayed`

/** The channel of the replays for a group that reads a channel: `CHANNEL.GROUP.replay`. */
export const groupChannel = (channel: string, group: string): string => `${channel}.${group}.replay`

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/**
 * Returns the id of a replay of a dead letter: 32 characters, the same in every process. All parts of the letter count, its
 * origin and its time included, except its position, which not every broker keeps.
 */
export const idOf = ({ fields, keyBytes, raw, tombstone }: Delivery, target: string, run: string): string => {
  // brokers and clients keep the order of one name's values, but not the order of names
  const sorted = fields
    .map(([name, value]) => [name, value === null ? null : Base64.encode(value)] as const)
    .toSorted(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
  const head = encoder.encode(
    JSON.stringify([target, run, keyBytes === undefined ? null : Base64.encode(keyBytes), tombstone, sorted])
  )
  const whole = new Uint8Array(head.length + raw.length)
  whole.set(head)
  whole.set(raw, head.length)
  return Base64Url.encode(sha256(whole).subarray(0, 24))
}

/** One message of the record. */
interface Entry {
  readonly begun: ReadonlyArray<string>
  readonly done: ReadonlyArray<string>
}

const ids = (value: unknown): ReadonlyArray<string> =>
  Array.isArray(value) ? value.filter((each) => typeof each === "string") : []

/** Parses a message of the record; empty if another program wrote it. */
const entryOf = (raw: Uint8Array): Entry => {
  const parsed = Result.try((): unknown => JSON.parse(decoder.decode(raw)))
  const found = Result.isSuccess(parsed) && typeof parsed.success === "object" && parsed.success !== null
    ? parsed.success
    : {}
  return { begun: ids(Reflect.get(found, "begun")), done: ids(Reflect.get(found, "done")) }
}

/** The record of one dead letter channel. It holds the ids in memory, about 100 bytes for each. */
export interface ReplayRecord {
  readonly isDone: (id: string) => boolean
  /** Whether a letter that was begun and not done is in its target channel. */
  readonly isFound: (id: string, target: string) => Effect.Effect<boolean, BrokerError>
  /** Writes that these letters are about to be published. */
  readonly begin: (ids: ReadonlyArray<string>) => Effect.Effect<void, BrokerError>
  /** Writes that these letters are published. */
  readonly finish: (ids: ReadonlyArray<string>) => Effect.Effect<void, BrokerError>
}

/** Opens the record of a dead letter channel: declares its channel, and reads it once. */
export const open = (
  broker: Broker["Service"],
  deadLetters: string
): Effect.Effect<ReplayRecord, BrokerError> =>
  Effect.gen(function*() {
    const channel = channelOf(deadLetters)
    yield* broker.declare({ channel })
    const done = new Set<string>()
    const begun = new Set<string>()
    yield* Stream.runForEach(broker.browse(channel), (delivery) =>
      Effect.sync(() => {
        const entry = entryOf(delivery.raw)
        for (const id of entry.begun) begun.add(id)
        for (const id of entry.done) done.add(id)
      }))
    // partitions of the record may be read in any order
    for (const id of done) begun.delete(id)
    const targets = new Map<string, ReadonlySet<string>>()

    /** Finds the letters in doubt that are in a channel: only one run at a time writes to it, so one read is enough. */
    const look = (target: string) =>
      Effect.suspend(() => {
        const known = targets.get(target)
        if (known !== undefined) return Effect.succeed(known)
        const there = new Set<string>()
        return Stream.runForEach(broker.browse(target), (delivery) =>
          Effect.sync(() => {
            const id = delivery.headers[replayId]
            if (id !== undefined && begun.has(id)) there.add(id)
          })).pipe(
            // the channel was never published to
            Effect.catchIf((error) => error.reason === "NotFound", () => Effect.void),
            Effect.map(() => {
              targets.set(target, there)
              return there
            })
          )
      })

    const write = (entry: Partial<Entry>) =>
      Effect.suspend(() =>
        broker.publish(
          new Outgoing(channel, encoder.encode(JSON.stringify(entry)), undefined, {
            "content-type": "application/json"
          })
        )
      )

    return {
      isDone: (id) => done.has(id),
      isFound: (id, target) =>
        begun.has(id) ? Effect.map(look(target), (there) => there.has(id)) : Effect.succeed(false),
      begin: (ids) => ids.length === 0 ? Effect.void : write({ begun: ids }),
      finish: (ids) =>
        ids.length === 0 ? Effect.void : Effect.map(write({ done: ids }), () => {
          for (const id of ids) done.add(id)
        })
    }
  })
