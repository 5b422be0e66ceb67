/**
 * The keys of a process whose data keys a key management service wraps: one data key for many messages, one call in flight for each
 * data key, and a new one before the old one ends.
 */
import { Detached } from "@millrace/core"
import { type Clock, Deferred, Duration, Effect, Exit, Redacted, type Semaphore } from "effect"
import { createSecretKey, type KeyObject } from "node:crypto"
import * as DataKey from "./dataKey.ts"
import type { Algorithm } from "./envelope.ts"
import * as Envelope from "./envelope.ts"
import { KeyRevoked, KeysUnavailable, KeyUnknown } from "./errors.ts"
import type { Ring } from "./keyRing.ts"
import { KmsError, type KmsPort } from "./kmsPort.ts"

/** Checked options. */
export interface Settings {
  readonly keys: ReadonlyMap<string, string>
  readonly writing: string
  readonly context: { readonly [name: string]: string }
  readonly messages: number
  readonly bytes: number
  readonly age: number
  readonly capacity: number
  readonly timeout: number
  readonly cooldown: number
}

/** The services of the layer. */
export interface Parts {
  readonly kms: KmsPort
  readonly clock: Clock.Clock
  readonly calls: Semaphore.Semaphore
  /** Runs an effect in the scope of the layer, so that the interruption of one caller does not end it for others. */
  readonly fork: (effect: Effect.Effect<void>) => unknown
  /** The keys of bodies without a wrapped data key. */
  readonly older: Ring | undefined
}

/** The data key that encrypts, and the rest of its life. */
interface Current {
  readonly data: DataKey.DataKey
  readonly until: number
  readonly renewAt: number
  messages: number
  bytes: number
}

/** A failed kind of call on a key: no call before the time. */
interface Held {
  readonly until: number
  readonly error: KmsError
}

/** The share of a data key's life after which the next one is asked for. */
const renewal = 0.8

const secretBytes = 32

const silent = new KmsError({ reason: "Unavailable", message: "does not answer in time" })
const odd = new KmsError({ reason: "Unavailable", message: "answers with a data key that is none" })

/** The secret of a data key; undefined if it has another length. */
const imported = (plaintext: Redacted.Redacted<Uint8Array>): KeyObject | undefined => {
  const bytes = Redacted.value(plaintext)
  return bytes.length === secretBytes ? createSecretKey(bytes) : undefined
}

/** Data keys of a key management service. */
export class KmsRing implements Ring {
  private readonly settings: Settings
  private readonly parts: Parts
  private readonly current = new Map<Algorithm, Current>()
  private readonly known = new Map<string, { readonly data: DataKey.DataKey; readonly until: number }>()
  private readonly held = new Map<string, Held>()
  private readonly generating = new Map<Algorithm, Deferred.Deferred<void, KeysUnavailable>>()
  private readonly unwrapping = new Map<
    string,
    Deferred.Deferred<DataKey.DataKey | undefined, KeysUnavailable>
  >()

  constructor(settings: Settings, parts: Parts) {
    this.settings = settings
    this.parts = parts
  }

  private now(): number {
    return this.parts.clock.currentTimeMillisUnsafe()
  }

  /** Returns the data key for one more message, and asks for the next one in the background when its life nears the end. */
  writing(algorithm: Algorithm, bytes: number): Effect.Effect<DataKey.DataKey, KeysUnavailable> {
    const used = this.current.get(algorithm)
    const now = this.now()
    if (used === undefined || now >= used.until || used.messages === 0 || !this.fits(used, bytes)) {
      // the wait may have given the new key to so many other messages that it is used up
      return Effect.flatMap(this.generate(algorithm), () => this.writing(algorithm, bytes))
    }
    used.messages--
    used.bytes -= bytes
    if (
      this.isOld(used, now) && !this.generating.has(algorithm) &&
      this.heldFor("generate", this.settings.writing, now) === undefined
    ) {
      this.parts.fork(Effect.catch(
        this.generate(algorithm),
        (error) => Effect.logWarning(`${error.message} The last data key stays in use until its end.`)
      ))
    }
    return Exit.succeed(used.data)
  }

  /** A body larger than the limit is the only one of its data key. */
  private fits(used: Current, bytes: number): boolean {
    return bytes <= used.bytes || used.messages === this.settings.messages
  }

  private isOld(used: Current, now: number): boolean {
    const left = 1 - renewal
    return now >= used.renewAt || used.messages < this.settings.messages * left ||
      used.bytes < this.settings.bytes * left
  }

  /** Returns the data key of an envelope; undefined if it is not the one that its writer committed to. */
  reading(
    envelope: Buffer,
    headerBytes: number
  ): Effect.Effect<DataKey.DataKey | undefined, KeyUnknown | KeyRevoked | KeysUnavailable> {
    const header = envelope.toString("latin1", 0, headerBytes)
    const found = this.known.get(header)
    if (found !== undefined) {
      if (this.now() < found.until) return Exit.succeed(found.data)
      this.known.delete(header)
    }
    const parsed = Envelope.parse(envelope.subarray(0, headerBytes))
    if (parsed === undefined) return Exit.succeed(undefined)
    const { keyId, wrapped } = parsed
    if (wrapped === undefined) {
      const { older } = this.parts
      return older === undefined ? Exit.fail(new KeyUnknown({ keyId })) : older.reading(envelope, headerBytes)
    }
    const key = this.settings.keys.get(keyId)
    // only named keys are asked for: an envelope must not choose the account that answers
    if (key === undefined) return Exit.fail(new KeyUnknown({ keyId }))
    if (key === "revoked") return Exit.fail(new KeyRevoked({ keyId }))
    return this.shared(this.unwrapping, header, () => this.unwrap(key, header, parsed, wrapped))
  }

  private generate(algorithm: Algorithm): Effect.Effect<void, KeysUnavailable> {
    const { age, bytes, context, keys, messages, writing } = this.settings
    return this.shared(
      this.generating,
      algorithm,
      () =>
        Effect.map(
          // the layer has checked that the key is there
          this.call("generate", writing, (kms) =>
            kms.generate(keys.get(writing)!, context), ({ plaintext, wrapped }) =>
            wrapped.length > 0 && wrapped.length <= Envelope.maximumWrapped ? imported(plaintext) : undefined),
          ([secret, { wrapped }]) => {
            const data = DataKey.make(algorithm, writing, secret, wrapped)
            const now = this.now()
            this.current.set(algorithm, { data, until: now + age, renewAt: now + age * renewal, messages, bytes })
            this.keep(data.header.toString("latin1"), data)
          }
        )
    )
  }

  private unwrap(
    key: string,
    header: string,
    parsed: Envelope.Header,
    wrapped: Uint8Array
  ): Effect.Effect<DataKey.DataKey | undefined, KeysUnavailable> {
    const { context } = this.settings
    return Effect.map(
      this.call("unwrap", parsed.keyId, (kms) =>
        Effect.catch(
          kms.unwrap(key, wrapped, context),
          (error) => error.reason === "Ciphertext" ? Effect.succeed(undefined) : Effect.fail(error)
        ), (plaintext) => plaintext === undefined ? "refused" : imported(plaintext)),
      ([secret]) => {
        if (secret === "refused") return undefined
        const data = DataKey.restore(parsed, secret)
        if (data !== undefined) this.keep(header, data)
        return data
      }
    )
  }

  private keep(header: string, data: DataKey.DataKey): void {
    if (this.known.size >= this.settings.capacity) {
      for (const oldest of this.known.keys()) {
        this.known.delete(oldest)
        break
      }
    }
    this.known.set(header, { data, until: this.now() + this.settings.age })
  }

  private heldFor(kind: string, keyId: string, now: number): Held | undefined {
    const held = this.held.get(`${kind} ${keyId}`)
    return held !== undefined && now < held.until ? held : undefined
  }

  /** Calls the service, unless the same kind of call on the key has just failed; `take` refuses answers that are none. */
  private call<A, B>(
    kind: "generate" | "unwrap",
    keyId: string,
    ask: (kms: KmsPort) => Effect.Effect<A, KmsError>,
    take: (answer: A) => B | undefined
  ): Effect.Effect<readonly [B, A], KeysUnavailable> {
    const { calls, kms } = this.parts
    const { cooldown, timeout } = this.settings
    const name = `${kind} ${keyId}`
    const unavailable = (error: unknown, why: string, wait: number) =>
      new KeysUnavailable({
        message: `The key ${JSON.stringify(keyId)} cannot be used now: ${kms.name} ${why}.`,
        retryAfter: Duration.millis(Math.max(1, wait)),
        cause: error
      })
    const failed = (error: KmsError) => {
      const wait = error.retryAfter === undefined ? cooldown : Math.max(1, Duration.toMillis(error.retryAfter))
      this.held.set(name, { until: this.now() + wait, error })
      return unavailable(error, error.message, wait)
    }
    const once = Effect.suspend(() => {
      const now = this.now()
      const held = this.heldFor(kind, keyId, now)
      if (held !== undefined) return Effect.fail(unavailable(held.error, held.error.message, held.until - now))
      const asked = Effect.catchDefect(
        Effect.suspend(() => ask(kms)),
        (cause) => Effect.fail(new KmsError({ reason: "Unavailable", message: "cannot be asked", cause }))
      )
      return Effect.timeoutOrElse(Effect.mapError(asked, failed), {
        duration: timeout,
        orElse: () => Effect.fail(failed(silent))
      })
    })
    return Effect.flatMap(calls.withPermit(once), (answer) => {
      const taken = take(answer)
      return taken === undefined ? Effect.fail(failed(odd)) : Effect.succeed([taken, answer] as const)
    })
  }

  /** Runs an effect in the scope of the layer; callers that come meanwhile share it. */
  private shared<Key, A>(
    pending: Map<Key, Deferred.Deferred<A, KeysUnavailable>>,
    key: Key,
    make: () => Effect.Effect<A, KeysUnavailable>
  ): Effect.Effect<A, KeysUnavailable> {
    const before = pending.get(key)
    if (before !== undefined) return Deferred.await(before)
    const begun = Deferred.makeUnsafe<A, KeysUnavailable>()
    pending.set(key, begun)
    this.parts.fork(Effect.flatMap(Effect.exit(Detached.effect(make())), (exit) =>
      Effect.sync(() => {
        pending.delete(key)
        Deferred.doneUnsafe(begun, exit)
      })))
    return Deferred.await(begun)
  }
}
