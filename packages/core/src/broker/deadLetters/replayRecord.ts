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

/** Returns the id of a dead letter itself, whatever its replays are published to. */
export const letterIdOf = (delivery: Delivery): string => {
  const known = letterIds.get(delivery)
  if (known !== undefined) return known
  const id = idOf(delivery, "", "")
  letterIds.set(delivery, id)
  return id
}

// a filter, a state and a replay each ask for the id of one letter, and hash its whole body
const letterIds = new WeakMap<Delivery, string>()

/** One message of the record. */
interface Entry {
  readonly begun: ReadonlyArray<string>
  readonly done: ReadonlyArray<string>
  /** The letters of `done`, by `letterIdOf`. */
  readonly replayed: ReadonlyArray<string>
  /** Letters that a person has discarded, by `letterIdOf`. */
  readonly discarded: ReadonlyArray<string>
}

const ids = (value: unknown): ReadonlyArray<string> =>
  Array.isArray(value) ? value.filter((each) => typeof each === "string") : []

/** Parses a message of the record; empty if another program wrote it. */
const entryOf = (raw: Uint8Array): Entry => {
  const parsed = Result.try((): unknown => JSON.parse(decoder.decode(raw)))
  const found = Result.isSuccess(parsed) && typeof parsed.success === "object" && parsed.success !== null
    ? parsed.success
    : {}
  return {
    begun: ids(Reflect.get(found, "begun")),
    done: ids(Reflect.get(found, "done")),
    replayed: ids(Reflect.get(found, "replayed")),
    discarded: ids(Reflect.get(found, "discarded"))
  }
}

/** Reads each message of the record of a dead letter channel. */
const readEach = (broker: Broker["Service"], channel: string, take: (entry: Entry) => void) =>
  Stream.runForEach(broker.browse(channel), ({ raw }) => Effect.sync(() => take(entryOf(raw))))

const write = (broker: Broker["Service"], channel: string, entry: object) =>
  Effect.suspend(() =>
    broker.publish(
      new Outgoing(channel, encoder.encode(JSON.stringify(entry)), undefined, { "content-type": "application/json" })
    )
  )

/** The letters of a dead letter channel that need no more work, by `letterIdOf`. */
export interface Closed {
  readonly replayed: ReadonlySet<string>
  readonly discarded: ReadonlySet<string>
}

/** Reads the letters that were replayed or discarded; none if the record does not exist. */
export const closed = (broker: Broker["Service"], deadLetters: string): Effect.Effect<Closed, BrokerError> =>
  Effect.suspend(() => {
    const replayed = new Set<string>()
    const discarded = new Set<string>()
    return readEach(broker, channelOf(deadLetters), (entry) => {
      for (const id of entry.replayed) replayed.add(id)
      for (const id of entry.discarded) discarded.add(id)
    }).pipe(
      Effect.catchIf((error) => error.reason === "NotFound", () => Effect.void),
      Effect.as({ replayed, discarded })
    )
  })

/** Writes that a person has discarded these letters. */
export const discard = (
  broker: Broker["Service"],
  deadLetters: string,
  entry: {
    readonly discarded: ReadonlyArray<string>
    readonly reason: string
    readonly by: string
    readonly at: number
  }
): Effect.Effect<void, BrokerError> => {
  const channel = channelOf(deadLetters)
  return Effect.andThen(broker.declare({ channel }), write(broker, channel, entry))
}

/** The record of one dead letter channel. It holds the ids in memory, about 100 bytes for each. */
export interface ReplayRecord {
  readonly isDone: (id: string) => boolean
  /** Whether a person has discarded a letter, by `letterIdOf`. */
  readonly isDiscarded: (letter: string) => boolean
  /** Whether a letter that was begun and not done is in its target channel. */
  readonly isFound: (id: string, target: string) => Effect.Effect<boolean, BrokerError>
  /** Writes that these letters are about to be published. */
  readonly begin: (ids: ReadonlyArray<string>) => Effect.Effect<void, BrokerError>
  /** Writes that these letters are published: the ids of the replays and those of the letters. */
  readonly finish: (ids: ReadonlyArray<string>, letters: ReadonlyArray<string>) => Effect.Effect<void, BrokerError>
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
    const discarded = new Set<string>()
    yield* readEach(broker, channel, (entry) => {
      for (const id of entry.begun) begun.add(id)
      for (const id of entry.done) done.add(id)
      for (const id of entry.discarded) discarded.add(id)
    })
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

    return {
      isDone: (id) => done.has(id),
      isDiscarded: (letter) => discarded.has(letter),
      isFound: (id, target) =>
        begun.has(id) ? Effect.map(look(target), (there) => there.has(id)) : Effect.succeed(false),
      begin: (ids) => ids.length === 0 ? Effect.void : write(broker, channel, { begun: ids }),
      finish: (ids, letters) =>
        ids.length === 0 ? Effect.void : Effect.map(write(broker, channel, { done: ids, replayed: letters }), () => {
          for (const id of ids) done.add(id)
        })
    }
  })
