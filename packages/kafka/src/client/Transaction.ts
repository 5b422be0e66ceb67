/**
 * Transactions over any client: one at a time, all or nothing.
 */
import type { BrokerError, Delivery, Outgoing } from "@millrace/core"
import { Context, Effect, Exit, Layer, type Scope, Semaphore } from "effect"
import * as Failure from "./Failure.ts"
import { check, type Options, type Settings } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** One transaction at a time for each layer; others wait. */
export class KafkaTransaction extends Context.Service<KafkaTransaction, {
  /**
   * Publishes all of the messages and, with `after`, moves the groups that these deliveries came by behind them: all or
   * nothing. Completes when the transaction is committed.
   *
   * The deliveries must be all that came before them too, in their partitions: a position has no gaps. When it fails nothing
   * has happened, except after `Lost`, when the broker may still have committed it.
   */
  readonly publish: (
    messages: ReadonlyArray<Outgoing<Uint8Array>>,
    options?: { readonly after?: ReadonlyArray<Delivery> | undefined }
  ) => Effect.Effect<void, Failed>
}>()("@millrace/kafka/KafkaTransaction/KafkaTransaction") {}

/** Options of a transactional producer. */
export interface TransactionOptions extends Options {
  /** The producer's own name, the same over restarts: a second one with the name fences off the first. */
  readonly transactionalId: string
}

/** The positions of one group, as clients send them. */
export interface Offsets {
  readonly consumerGroupId: string
  readonly topics: Array<
    { readonly topic: string; readonly partitions: Array<{ readonly partition: number; readonly offset: string }> }
  >
}

/** The position behind the last of the deliveries, for each group, topic and partition. */
const behind = (deliveries: ReadonlyArray<Delivery>): Array<Offsets> => {
  const groups = new Map<string, Map<string, Map<number, number>>>()
  for (const { channel, origin, partition, position } of deliveries) {
    let topics = groups.get(origin.group)
    if (topics === undefined) groups.set(origin.group, topics = new Map())
    let partitions = topics.get(channel)
    if (partitions === undefined) topics.set(channel, partitions = new Map())
    partitions.set(partition, Math.max(partitions.get(partition) ?? 0, position + 1))
  }
  return Array.from(groups, ([consumerGroupId, topics]) => ({
    consumerGroupId,
    topics: Array.from(topics, ([topic, partitions]) => ({
      topic,
      partitions: Array.from(partitions, ([partition, position]) => ({ partition, offset: String(position) }))
    }))
  }))
}

/** A transaction that has begun. */
export interface Transaction {
  readonly send: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Promise<unknown>
  readonly sendOffsets: (offsets: Offsets) => Promise<unknown>
  readonly commit: () => Promise<unknown>
  readonly abort: () => Promise<unknown>
}

/** A transactional producer of a client library. */
export interface Transactional {
  readonly connect: () => Promise<unknown>
  readonly begin: () => Promise<Transaction>
  readonly close: Effect.Effect<void>
}

const make = (settings: Settings, open: () => Transactional) =>
  Effect.gen(function*() {
    const one = yield* Semaphore.make(1)
    let producer: Transactional | undefined
    const drop = Effect.suspend(() => {
      const old = producer
      producer = undefined
      return old === undefined ? Effect.void : old.close
    })
    yield* Effect.addFinalizer(() => drop)
    const connected = Effect.suspend(() => {
      if (producer !== undefined) return Effect.succeed(producer)
      const fresh = producer = open()
      return Effect.as(Failure.attempt(settings.place, "connect", () => fresh.connect()), fresh)
    })
    const all = async (
      transaction: Transaction,
      messages: ReadonlyArray<Outgoing<Uint8Array>>,
      offsets: Array<Offsets>
    ) => {
      if (messages.length > 0) await transaction.send(messages)
      for (const each of offsets) await transaction.sendOffsets(each)
    }
    const call = <A>(run: () => Promise<A>) => Failure.attempt(settings.place, "publish", run)
    const publish: KafkaTransaction["Service"]["publish"] = (messages, options) => {
      const offsets = behind(options?.after ?? [])
      if (messages.length === 0 && offsets.length === 0) return Exit.void
      const chosen = messages.find(({ native }) => native?.partition !== undefined)
      if (chosen !== undefined) {
        return Exit.fail(Failure.invalid(
          "publish",
          `A message for ${chosen.channel} names its partition, which no transaction takes here: leave partition out, or publish it without a transaction.`
        ))
      }
      // interrupted in the middle it would stay open, and hold up its readers, until the broker gives it up
      return one.withPermit(Effect.uninterruptible(
        Effect.gen(function*() {
          const open = yield* connected
          const transaction = yield* call(() => open.begin())
          yield* call(() => all(transaction, messages, offsets)).pipe(
            Effect.onError(() => Effect.ignore(call(() => transaction.abort())))
          )
          yield* call(() => transaction.commit())
        }).pipe(Effect.onError(() => drop))
      ))
    }
    yield* connected
    return KafkaTransaction.of({ publish })
  })

/** The service over a client's transactional producers, connected at once. */
export const layer = (
  options: TransactionOptions,
  transactional: (
    settings: Settings,
    transactionalId: string
  ) => Effect.Effect<() => Transactional, Failed, Scope.Scope>
): Layer.Layer<KafkaTransaction, Failed> =>
  Layer.effect(
    KafkaTransaction,
    Effect.gen(function*() {
      const settings = yield* check(options)
      if (options.transactionalId === "") {
        return yield* Effect.fail(Failure.invalid(
          "connect",
          "Kafka: transactionalId is empty: give each producer a name of its own that stays over restarts."
        ))
      }
      return yield* make(settings, yield* transactional(settings, options.transactionalId))
    })
  )
