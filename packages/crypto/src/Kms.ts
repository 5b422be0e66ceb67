/**
 * Keys that never leave a key management service (KMS): the service makes a data key for many messages and wraps it, the envelope
 * carries the wrapped key, and readers have it unwrapped once.
 */
import { OptionCheck } from "@millrace/core"
import { Clock, Context, type Duration, Effect, FiberSet, Layer, Semaphore } from "effect"
import { maximumKeyId } from "./internal/envelope.ts"
import type { KmsPort } from "./internal/kmsPort.ts"
import { KmsRing, type Settings } from "./internal/kmsRing.ts"
import { Ring } from "./Keys.ts"

export { type Generated, KmsError, type KmsPort, type Reason } from "./internal/kmsPort.ts"

/** The key management service of a process, e.g. that of `AwsKms.layer`. */
class KmsService extends Context.Service<KmsService, KmsPort>()("@millrace/crypto/Kms/Service") {}
export { KmsService as Service }

/** Options of data keys. */
export interface DataKeyOptions {
  /** The most messages that one data key encrypts; an integer from 1 to 2^32. Default: 2^20. */
  readonly messages?: number | undefined
  /** The most bytes of bodies that one data key encrypts; an integer from 1. Default: 2^34, 16 GiB. */
  readonly bytes?: number | undefined
  /**
   * The longest time that a data key encrypts, and that it decrypts without asking the service again; from 1 second. A withdrawn
   * permission takes effect after this time. Default: 5 minutes.
   */
  readonly age?: Duration.Input | undefined
  /** The most data keys in memory for reading; the oldest is dropped; an integer from 1. Default: 1,000. */
  readonly capacity?: number | undefined
}

/** Options of `layer`. */
export interface Options<Id extends string, E = never, R = never> {
  /**
   * The service's keys by the id that stands in envelopes; `"revoked"` for a key whose bodies are refused. No other key of the service is
   * ever asked for, whatever an envelope names.
   */
  readonly keys: { readonly [id in Id]: string }
  /** The id of the key that wraps new data keys. */
  readonly writing: NoInfer<Id>
  /**
   * Names and values that the service binds each data key to, shows in its log, and can demand in its policies. They are no secret. A
   * body opens only with those of its writer. Default: none.
   */
  readonly context?: { readonly [name: string]: string } | undefined
  readonly dataKey?: DataKeyOptions | undefined
  /** The time limit of a call; above 0. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** The wait after a failed call until the next one of its kind on its key, unless the service names one; above 0. Default: 5 seconds. */
  readonly cooldown?: Duration.Input | undefined
  /** The most calls at a time; an integer from 1. Default: 10. */
  readonly concurrency?: number | undefined
  /** A key set that reads the bodies from before the service was used. It writes none. Default: none. */
  readonly older?: Layer.Layer<Ring, E, R> | undefined
}

/** The defaults of the options of `layer`. */
export const defaults = {
  messages: 2 ** 20,
  bytes: 2 ** 34,
  age: "5 minutes",
  capacity: 1000,
  timeout: "5 seconds",
  cooldown: "5 seconds",
  concurrency: 10
} as const

const check = OptionCheck.make("Kms")

const keysOf = (keys: { readonly [id: string]: string }, writing: string): ReadonlyMap<string, string> => {
  const all = new Map(Object.entries(keys))
  for (const [id, name] of all) {
    const length = Buffer.byteLength(id)
    if (length < 1 || length > maximumKeyId) {
      throw new RangeError(`Kms: a key id must have 1 to ${maximumKeyId} bytes, got ${length}`)
    }
    if (name === "") throw new RangeError(`Kms: the key of ${JSON.stringify(id)} must have a name, got an empty text`)
  }
  const name = all.get(writing)
  if (name === undefined || name === "revoked") {
    throw new RangeError(
      `Kms: writing must be the id of a key that is ${name === undefined ? "in keys" : "not revoked"}`
    )
  }
  return all
}

/**
 * Makes the keys of a process from a key management service, for `Encryption`. The service is asked for a data key at the first
 * message, and for the next one in the background after 80 % of the life of the last; a received data key is unwrapped once, whatever
 * number of messages waits for it.
 *
 * Errors: while a call fails, is denied, throttled or late, messages fail with `KeysUnavailable` (class `dependency`) and return to
 * their source with `retryAfter`: none becomes a dead letter. So it is with a key that the service has disabled: mark it `"revoked"`
 * and its bodies become dead letters. A wrapped key that the service refuses is `Tampered`, an id that is not in `keys` is `KeyUnknown`
 * (class `poison`).
 *
 * **Example** (AWS KMS)
 *
 * ```ts
 * import { AwsKms, Kms } from "@millrace/crypto"
 * import { Layer } from "effect"
 * import { FetchHttpClient } from "effect/http"
 *
 * const keys = Kms.layer({
 *   keys: { "2026-12": "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab" },
 *   writing: "2026-12",
 *   context: { service: "orders" }
 * }).pipe(
 *   Layer.provide(AwsKms.layerConfig()),
 *   Layer.provide(FetchHttpClient.layer)
 * )
 * ```
 *
 * @throws RangeError when an id or a name is empty, the writing key is revoked, or an option is out of range
 * @category layers
 */
export const layer = <const Id extends string, E = never, R = never>(
  options: Options<Id, E, R>
): Layer.Layer<Ring, E, KmsService | R> => {
  const { context = {}, dataKey = {}, older, writing } = options
  const settings: Settings = {
    keys: keysOf(options.keys, writing),
    writing,
    context,
    messages: check.count("dataKey.messages", dataKey.messages ?? defaults.messages, { most: 2 ** 32 }),
    bytes: check.count("dataKey.bytes", dataKey.bytes ?? defaults.bytes),
    age: check.millis("dataKey.age", dataKey.age ?? defaults.age, { least: 1000 }),
    capacity: check.count("dataKey.capacity", dataKey.capacity ?? defaults.capacity),
    timeout: check.millis("timeout", options.timeout ?? defaults.timeout),
    cooldown: check.millis("cooldown", options.cooldown ?? defaults.cooldown)
  }
  const concurrency = check.count("concurrency", options.concurrency ?? defaults.concurrency)
  return Layer.effect(
    Ring,
    Effect.gen(function*() {
      const kms = yield* KmsService
      const clock = yield* Clock.Clock
      const fork = yield* FiberSet.makeRuntime()
      const keySet = older === undefined ? undefined : Context.get(yield* Layer.build(older), Ring)
      return new KmsRing(settings, { kms, clock, fork, calls: Semaphore.makeUnsafe(concurrency), older: keySet })
    })
  )
}
