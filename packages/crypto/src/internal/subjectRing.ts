/**
 * The keys of data subjects in memory: each is read from its store once in a while, with one read in flight, and its data keys are kept
 * beside it, so that erasure forgets both.
 */
import { Detached, Failure, Redaction } from "@millrace/core"
import { type Clock, Deferred, Duration, Effect, Exit } from "effect"
import { createSecretKey, type KeyObject } from "node:crypto"
import * as DataKey from "./dataKey.ts"
import * as Envelope from "./envelope.ts"
import { KeysUnavailable } from "./errors.ts"

/** The key of a subject: its secret, `erased`, or undefined if the store has none. */
export type Found = Uint8Array | "erased" | undefined

/** Reads and writes secrets of subjects. */
export interface Secrets {
  readonly get: (subject: string) => Effect.Effect<Found, unknown>
  /** Stores a new secret unless there is one, and returns the stored one. */
  readonly add: (subject: string) => Effect.Effect<Found, unknown>
  readonly erase: (subject: string) => Effect.Effect<void, unknown>
}

/** The key id in envelopes of subjects. */
export const keyId = "subject"

/** The most messages of a data key: its nonces are random. */
const messages = 2 ** 20

/** The most data keys of one subject in memory. */
const dataKeys = 100

interface Entry {
  readonly found: KeyObject | "erased" | undefined
  readonly until: number
  readonly known: Map<string, DataKey.DataKey>
  writing: { readonly data: DataKey.DataKey; left: number } | undefined
}

const redaction = Redaction.make()

/** The keys of data subjects. */
export class SubjectRing {
  private readonly secrets: Secrets
  private readonly settings: { readonly age: number; readonly capacity: number; readonly timeout: number }
  private readonly clock: Clock.Clock
  private readonly fork: (effect: Effect.Effect<void>) => unknown
  private readonly entries = new Map<string, Entry>()
  private readonly pending = new Map<string, Deferred.Deferred<Entry, KeysUnavailable>>()

  constructor(
    secrets: Secrets,
    settings: SubjectRing["settings"],
    clock: Clock.Clock,
    fork: (effect: Effect.Effect<void>) => unknown
  ) {
    this.secrets = secrets
    this.settings = settings
    this.clock = clock
    this.fork = fork
  }

  /** Returns the data key for one more value of a subject, whose key is made if there is none. */
  writing(subject: string): Effect.Effect<DataKey.DataKey | "erased", KeysUnavailable> {
    return Effect.flatMapEager(
      this.entry(subject),
      (entry) =>
        entry.found === undefined
          ? Effect.map(this.read(`add ${subject}`, subject, this.secrets.add), (added) => this.take(added))
          : Exit.succeed(this.take(entry))
    )
  }

  private take(entry: Entry): DataKey.DataKey | "erased" {
    // the store has just stored a secret, or knows the subject as erased
    if (entry.found === undefined || entry.found === "erased") return "erased"
    if (entry.writing === undefined || entry.writing.left === 0) {
      entry.writing = { data: DataKey.make("aes256Gcm", keyId, entry.found), left: messages }
    }
    entry.writing.left--
    return entry.writing.data
  }

  /** Returns the data key of an envelope; `unknown` if the store has no key, and undefined if the key is not that of its writer. */
  reading(
    subject: string,
    envelope: Buffer,
    headerBytes: number
  ): Effect.Effect<DataKey.DataKey | "erased" | "unknown" | undefined, KeysUnavailable> {
    return Effect.mapEager(this.entry(subject), (entry) => {
      const { found, known } = entry
      if (found === "erased") return found
      if (found === undefined) return "unknown"
      const header = envelope.toString("latin1", 0, headerBytes)
      const before = known.get(header)
      if (before !== undefined) return before
      const parsed = Envelope.parse(envelope.subarray(0, headerBytes))
      if (parsed === undefined || parsed.keyId !== keyId || parsed.wrapped !== undefined) return undefined
      const data = DataKey.restore(parsed, found)
      if (data !== undefined) {
        if (known.size >= dataKeys) known.clear()
        known.set(header, data)
      }
      return data
    })
  }

  /** Whether a subject is erased. */
  isErased(subject: string): Effect.Effect<boolean, KeysUnavailable> {
    return Effect.mapEager(this.entry(subject), ({ found }) => found === "erased")
  }

  /** Erases the key of a subject, here and in the store. */
  erase(subject: string): Effect.Effect<void, KeysUnavailable> {
    return Effect.andThen(
      this.guarded(this.secrets.erase(subject)),
      Effect.sync(() => this.keep(subject, "erased"))
    )
  }

  private entry(subject: string): Effect.Effect<Entry, KeysUnavailable> {
    const known = this.entries.get(subject)
    return known !== undefined && this.clock.currentTimeMillisUnsafe() < known.until
      ? Exit.succeed(known)
      : this.read(`get ${subject}`, subject, this.secrets.get)
  }

  private keep(subject: string, found: Found): Entry {
    if (this.entries.size >= this.settings.capacity) {
      for (const oldest of this.entries.keys()) {
        this.entries.delete(oldest)
        break
      }
    }
    const entry: Entry = {
      found: found instanceof Uint8Array ? createSecretKey(found) : found,
      until: this.clock.currentTimeMillisUnsafe() + this.settings.age,
      known: new Map(),
      writing: undefined
    }
    this.entries.delete(subject)
    // a subject without a key may get one from another process at any time
    if (found !== undefined) this.entries.set(subject, entry)
    return entry
  }

  private guarded<A>(effect: Effect.Effect<A, unknown>): Effect.Effect<A, KeysUnavailable> {
    const failed = (cause: unknown) =>
      new KeysUnavailable({
        message: `The key of a data subject cannot be read or written now: ${
          redaction.text(Failure.messageOf(cause, 512)) || Failure.tagOf(cause)
        }`,
        retryAfter: Duration.seconds(5),
        cause
      })
    return Effect.catchDefect(Effect.timeout(effect, this.settings.timeout), (cause) => Effect.fail(failed(cause)))
      .pipe(
        Effect.mapError((error) => error instanceof KeysUnavailable ? error : failed(error))
      )
  }

  private read(
    name: string,
    subject: string,
    ask: (subject: string) => Effect.Effect<Found, unknown>
  ): Effect.Effect<Entry, KeysUnavailable> {
    const before = this.pending.get(name)
    if (before !== undefined) return Deferred.await(before)
    const begun = Deferred.makeUnsafe<Entry, KeysUnavailable>()
    this.pending.set(name, begun)
    const asked = Effect.map(this.guarded(Effect.suspend(() => ask(subject))), (found) => this.keep(subject, found))
    // in the scope of the layer: the interruption of one caller does not end it for the others
    this.fork(Effect.flatMap(Effect.exit(Detached.effect(asked)), (exit) =>
      Effect.sync(() => {
        this.pending.delete(name)
        Deferred.doneUnsafe(begun, exit)
      })))
    return Deferred.await(begun)
  }
}
