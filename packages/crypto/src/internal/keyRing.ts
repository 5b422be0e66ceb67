/**
 * The keys of a process: read from their source, read again in the background and for an unknown id, and their data keys.
 */
import { Rereading } from "@millrace/core/rereading"
import { Detached, Failure, OptionCheck, Redaction } from "@millrace/core"
import { Cause, type Clock, Duration, Effect, Exit, FiberSet, Scope } from "effect"
import type { KeyObject } from "node:crypto"
import * as DataKey from "./dataKey.ts"
import type { Algorithm } from "./envelope.ts"
import * as Envelope from "./envelope.ts"
import { KeyRevoked, KeysUnavailable, KeyUnknown } from "./errors.ts"
import { compile, type Compiled, type KeySet } from "./keySet.ts"

/** The option checks of `Keys`. */
export const check = OptionCheck.make("Keys")

/** Options of data keys. */
export interface DataKeyOptions {
  /** The most messages that one data key encrypts; an integer from 1 to 2^32. Default: 2^20. */
  readonly messages?: number | undefined
  /** The longest time that one data key encrypts; above 0. Default: 5 minutes. */
  readonly age?: Duration.Input | undefined
  /** The most data keys in memory for reading; the oldest is dropped; an integer from 1. Default: 1,000. */
  readonly capacity?: number | undefined
}

/** Options of a source that is read again. */
export interface SourceOptions {
  /** The longest time between two reads; above 0. A revocation takes effect after this time. Default: 5 minutes. */
  readonly refresh?: Duration.Input | undefined
  /** The shortest time between a read and the next one for an unknown key id; above 0. Default: 5 seconds. */
  readonly cooldown?: Duration.Input | undefined
  /** The time limit of a read; above 0. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** How long the last good set stays in use while reads fail; above 0. Default: 24 hours. */
  readonly keep?: Duration.Input | undefined
}

/** The defaults of all options. */
export const defaults = {
  messages: 2 ** 20,
  age: Duration.minutes(5),
  capacity: 1000,
  refresh: Duration.minutes(5),
  cooldown: Duration.seconds(5),
  timeout: Duration.seconds(5),
  keep: Duration.hours(24)
} as const

/** What the encryption of one message asks for. */
export interface Ring {
  /** Returns the data key for one more message of so many bytes; an Exit while it is in memory. */
  readonly writing: (algorithm: Algorithm, bytes: number) => Effect.Effect<DataKey.DataKey, KeysUnavailable>
  /**
   * Returns the data key of an envelope whose header has this length; undefined if its commitment does not fit its key. An Exit while
   * the key is in memory.
   */
  readonly reading: (
    envelope: Buffer,
    headerBytes: number
  ) => Effect.Effect<DataKey.DataKey | undefined, KeyUnknown | KeyRevoked | KeysUnavailable>
}

/** The data keys of one set of keys. */
export class DataKeys {
  private readonly messages: number
  private readonly age: number
  private readonly capacity: number
  private readonly clock: Clock.Clock
  private readonly current: { [name in Algorithm]?: { readonly data: DataKey.DataKey; left: number; until: number } } =
    {}
  private readonly known = new Map<string, DataKey.DataKey>()

  constructor(
    options: { readonly messages: number; readonly age: number; readonly capacity: number },
    clock: Clock.Clock
  ) {
    this.messages = options.messages
    this.age = options.age
    this.capacity = options.capacity
    this.clock = clock
  }

  /** The data key that encrypts the next message; `clear` when the writing key changes. */
  forWriting(algorithm: Algorithm, { id, secret }: Compiled["writing"]): DataKey.DataKey {
    const now = this.clock.currentTimeMillisUnsafe()
    let used = this.current[algorithm]
    if (used === undefined || used.left === 0 || now >= used.until) {
      used = { data: DataKey.make(algorithm, id, secret), left: this.messages, until: now + this.age }
      this.current[algorithm] = used
    }
    used.left--
    return used.data
  }

  /** The data key with this header, if it has been used before. */
  find(header: string): DataKey.DataKey | undefined {
    return this.known.get(header)
  }

  keep(header: string, data: DataKey.DataKey): void {
    if (this.known.size >= this.capacity) {
      for (const oldest of this.known.keys()) {
        this.known.delete(oldest)
        break
      }
    }
    this.known.set(header, data)
  }

  /** Forgets all data keys: their keys may be revoked, or have another secret. */
  clear(): void {
    this.known.clear()
    for (const algorithm of Envelope.algorithms) delete this.current[algorithm]
  }
}

/** Checks the options of data keys. */
export const dataKeysOf = (options: DataKeyOptions = {}): (clock: Clock.Clock) => DataKeys => {
  const checked = {
    messages: check.count("dataKey.messages", options.messages ?? defaults.messages, { most: 2 ** 32 }),
    age: check.millis("dataKey.age", options.age ?? defaults.age),
    capacity: check.count("dataKey.capacity", options.capacity ?? defaults.capacity)
  }
  return (clock) => new DataKeys(checked, clock)
}

const restore = (
  data: DataKeys,
  header: string,
  parsed: Envelope.Header,
  secret: KeyObject | "revoked"
): Exit.Exit<DataKey.DataKey | undefined, KeyRevoked> => {
  if (secret === "revoked") return Exit.fail(new KeyRevoked({ keyId: parsed.keyId }))
  const found = DataKey.restore(parsed, secret)
  if (found !== undefined) data.keep(header, found)
  return Exit.succeed(found)
}

const reader = (
  data: DataKeys,
  find: (id: string) => Effect.Effect<KeyObject | "revoked", KeyUnknown | KeysUnavailable>
): Ring["reading"] =>
(envelope, headerBytes) => {
  const header = envelope.toString("latin1", 0, headerBytes)
  const known = data.find(header)
  if (known !== undefined) return Exit.succeed(known)
  const parsed = Envelope.parse(envelope.subarray(0, headerBytes))
  if (parsed === undefined) return Exit.succeed(undefined)
  // a wrapped data key is for a key management service
  return parsed.wrapped === undefined
    ? Effect.flatMapEager(find(parsed.keyId), (secret) => restore(data, header, parsed, secret))
    : Exit.fail(new KeyUnknown({ keyId: parsed.keyId }))
}

/** Makes a ring of keys that never change. */
export const fixed = (set: Compiled, data: DataKeys): Ring => ({
  writing: (algorithm) => Exit.succeed(data.forWriting(algorithm, set.writing)),
  reading: reader(data, (id) => {
    const secret = set.keys.get(id)
    return secret === undefined ? Exit.fail(new KeyUnknown({ keyId: id })) : Exit.succeed(secret)
  })
})

/** Checks the options of a source. */
export const timesOf = (options: SourceOptions = {}) => ({
  refresh: check.millis("refresh", options.refresh ?? defaults.refresh),
  cooldown: check.millis("cooldown", options.cooldown ?? defaults.cooldown),
  timeout: check.millis("timeout", options.timeout ?? defaults.timeout),
  keep: check.millis("keep", options.keep ?? defaults.keep)
})

const why = {
  unreadable: "cannot be read",
  before: "were read before this key id was asked for",
  older: "were asked for before this key id was"
} as const

const redaction = Redaction.make()

/** The text of a failed read: bounded, and without what looks like a secret. */
const reasonOf = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  const message = redaction.text(Failure.messageOf(error, 512))
  return message === "" ? Failure.tagOf(error) : message
}

/** Tells whether two sets have the same keys. */
const isSame = (a: Compiled, b: Compiled): boolean =>
  a.keys.size === b.keys.size && a.writing.id === b.writing.id &&
  [...a.keys].every(([id, secret]) => {
    const other = b.keys.get(id)
    return secret === "revoked" || other === undefined || other === "revoked"
      ? secret === other
      : secret.equals(other)
  })

/**
 * Makes a ring of keys that are read from a source: at once, then every `refresh`, and for an unknown id at most once per
 * `cooldown`. A cached set never proves that a key does not exist: a message is refused only after a read that began after the
 * message asked.
 */
export const refreshed = (
  name: string,
  load: Effect.Effect<KeySet, unknown>,
  times: ReturnType<typeof timesOf>,
  data: DataKeys,
  clock: Clock.Clock,
  scope: Scope.Scope
): Effect.Effect<Ring, KeysUnavailable> =>
  Effect.gen(function*() {
    const fork = yield* Effect.provideService(FiberSet.makeRuntime(), Scope.Scope, scope)
    const unavailable = (reason: keyof typeof why, wait: number, cause?: Cause.Cause<unknown>) =>
      new KeysUnavailable({
        message: `The keys of ${name} ${why[reason]}${cause === undefined ? "" : `: ${reasonOf(cause)}`}`,
        retryAfter: Duration.millis(Math.max(1, wait)),
        cause
      })
    const source = new Rereading<Compiled, KeysUnavailable>({
      load: Effect.timeout(load, times.timeout).pipe(Effect.flatMap((loaded) => Effect.sync(() => compile(loaded)))),
      cooldown: times.cooldown,
      keep: times.keep,
      clock,
      fork,
      onChange: (next, before) => {
        if (next === undefined || before === undefined || !isSame(before, next)) data.clear()
      },
      error: (reason, wait, _hasValue, cause) => unavailable(reason, wait, cause)
    })
    const ring: Ring = {
      writing: (algorithm) =>
        Effect.flatMapEager(
          source.find((set) => set),
          (set) =>
            set === undefined
              ? Exit.fail(unavailable("unreadable", times.cooldown))
              : Exit.succeed(data.forWriting(algorithm, set.writing))
        ),
      reading: reader(data, (id) =>
        Effect.flatMapEager(
          source.find((set) => set.keys.get(id)),
          (secret) => secret === undefined ? Exit.fail(new KeyUnknown({ keyId: id })) : Exit.succeed(secret)
        ))
    }
    const again = Effect.suspend(() => Effect.sleep(source.current === undefined ? times.cooldown : times.refresh))
      .pipe(
        Effect.andThen(source.read),
        Effect.catch((error) => Effect.logWarning(`${error.message}. The last ones stay in use.`)),
        Effect.forever
      )
    yield* source.read
    fork(Detached.effect(again))
    return ring
  })
