/**
 * Transactions over either client: one at a time, all or nothing.
 */
import { BrokerError, type Delivery, type Outgoing } from "@millrace/core"
import { Context, Effect, Exit, Layer, type Scope, Semaphore } from "effect"
import * as Errors from "./Errors.ts"
import * as Membership from "./Membership.ts"
import { check, type Options, type ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/**
 * The guarantee of a transaction with `after`: `exactly once` if Kafka itself refuses a member whose partition has moved to
 * another member (KIP-447), `at least once` if the client cannot name the member.
 */
export type Guarantee = "exactly once" | "at least once"

/** Runs one transaction at a time for each layer; further calls wait. */
export class KafkaTransaction extends Context.Service<KafkaTransaction, {
  /**
   * Publishes all messages and, with `after`, commits the offsets behind these deliveries in their groups: all or nothing.
   * Completes when the transaction is committed.
   *
   * The deliveries must come from a running subscription with `Lanes.partition`: a committed offset covers all messages below
   * it, and only the member that holds the partition can commit. Put all messages that one handler publishes into one
   * transaction.
   *
   * Fails with `Invalid` if the deliveries came otherwise or a message names its partition, and with `Lost` if the partition
   * has moved to another member. After a failure nothing was published or committed, except after `Lost`, when the broker may
   * have committed the transaction.
   */
  readonly publish: (
    messages: ReadonlyArray<Outgoing<Uint8Array>>,
    options?: { readonly after?: ReadonlyArray<Delivery> | undefined }
  ) => Effect.Effect<void, Failed>
  /** The guarantee of `publish` with `after` by this client. */
  readonly guarantee: Guarantee
}>()("@millrace/kafka/KafkaTransaction/KafkaTransaction") {}

/** Options of a transactional producer. */
export interface TransactionOptions extends Options {
  /** The unique name of the producer, stable across restarts: a second producer with the same name fences the first. */
  readonly transactionalId: string
}

/** The offset of one lease, as clients send it. */
export interface Offsets {
  readonly group: string
  readonly topic: string
  readonly partition: number
  /** The offset after the last of the deliveries. */
  readonly position: number
  readonly membership: Membership.Membership
}

/** Finds the offset after the last of the deliveries for each lease, or the error if they cannot be committed. */
const behind = (deliveries: ReadonlyArray<Delivery>): ReadonlyArray<Offsets> | Failed => {
  const found = new Map<Membership.Membership, Offsets>()
  for (const { channel, origin, partition, position } of deliveries) {
    const membership = Membership.of(origin)
    const place = `The message at ${position} of partition ${partition} of ${channel}`
    if (membership === undefined) {
      return Errors.invalid(
        "publish",
        `${place} was not taken from Kafka by a subscription of this program, so no group is moved behind it: pass message.delivery as it came.`
      )
    }
    const { lanes } = membership
    if (lanes !== undefined && lanes !== "partition") {
      return Errors.invalid(
        "publish",
        `${place} came by lanes of kind ${lanes}, where messages before it may still run: give the subscription Lanes.partition.`
      )
    }
    const before = found.get(membership)?.position ?? 0
    found.set(membership, {
      group: origin.group,
      topic: channel,
      partition,
      position: Math.max(before, position + 1),
      membership
    })
  }
  return Array.from(found.values())
}

/** The error of a partition that has moved to another member: that member gets the message redelivered. */
export const lost = ({ group, partition, topic }: Offsets): Failed =>
  BrokerError.make({
    system: "kafka",
    operation: "publish",
    reason: "Lost",
    message:
      `Partition ${partition} of ${topic} is no longer assigned to this member of ${group}, so the transaction was aborted.`
  })

/** An open transaction. */
export interface Transaction {
  readonly send: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Promise<unknown>
  readonly sendOffsets: (offsets: Offsets) => Promise<unknown>
  readonly commit: () => Promise<unknown>
  readonly abort: () => Promise<unknown>
}

/** A transactional producer of a client library. */
export interface TransactionalProducer {
  readonly connect: () => Promise<unknown>
  readonly begin: () => Promise<Transaction>
  readonly close: Effect.Effect<void>
}

/** The transactional producers of a client library. */
export interface TransactionalProducers {
  readonly guarantee: Guarantee
  readonly open: () => TransactionalProducer
}

const make = (settings: ResolvedOptions, { guarantee, open }: TransactionalProducers) =>
  Effect.gen(function*() {
    const one = yield* Semaphore.make(1)
    let producer: TransactionalProducer | undefined
    const drop = Effect.suspend(() => {
      const old = producer
      producer = undefined
      return old === undefined ? Effect.void : old.close
    })
    yield* Effect.addFinalizer(() => drop)
    const connected = Effect.suspend(() => {
      if (producer !== undefined) return Effect.succeed(producer)
      const fresh = producer = open()
      return Effect.as(Errors.attempt(settings.place, "connect", () => fresh.connect()), fresh)
    })
    const call = <A>(run: () => Promise<A>) => Errors.attempt(settings.place, "publish", run)
    const all = (
      transaction: Transaction,
      messages: ReadonlyArray<Outgoing<Uint8Array>>,
      places: ReadonlyArray<Offsets>
    ) =>
      Effect.gen(function*() {
        if (messages.length > 0) yield* call(() => transaction.send(messages))
        for (const place of places) {
          const { group, membership, topic } = place
          if (!membership.held()) return yield* Effect.fail(lost(place))
          yield* Errors.attempt(settings.place, "publish", () => transaction.sendOffsets(place), {
            channel: topic,
            group
          })
        }
        // the client's transactions do not name the member, so check the membership as late as possible
        if (guarantee === "exactly once") return
        for (const { membership } of places) yield* membership.confirm
      })
    const publish: KafkaTransaction["Service"]["publish"] = (messages, options) => {
      const offsets = behind(options?.after ?? [])
      if (offsets instanceof BrokerError.BrokerError) return Exit.fail(offsets)
      if (messages.length === 0 && offsets.length === 0) return Exit.void
      const chosen = messages.find(({ native }) => native?.partition !== undefined)
      if (chosen !== undefined) {
        return Exit.fail(Errors.invalid(
          "publish",
          `A message for ${chosen.channel} names its partition, which no transaction takes here: leave partition out, or publish it without a transaction.`
        ))
      }
      // an interrupted transaction would stay open and block consumers that read committed messages until the broker's
      // timeout
      return one.withPermit(Effect.uninterruptible(
        Effect.gen(function*() {
          const open = yield* connected
          const transaction = yield* call(() => open.begin())
          yield* all(transaction, messages, offsets).pipe(
            Effect.onError(() => Effect.ignore(call(() => transaction.abort())))
          )
          yield* call(() => transaction.commit())
        }).pipe(Effect.onError(() => drop))
      ))
    }
    yield* connected
    return KafkaTransaction.of({ publish, guarantee })
  })

/** Provides the service over a client's transactional producers and connects at once. */
export const layer = (
  options: TransactionOptions,
  transactional: (
    settings: ResolvedOptions,
    transactionalId: string
  ) => Effect.Effect<TransactionalProducers, Failed, Scope.Scope>
): Layer.Layer<KafkaTransaction, Failed> =>
  Layer.effect(
    KafkaTransaction,
    Effect.gen(function*() {
      const settings = yield* check(options)
      if (options.transactionalId === "") {
        return yield* Effect.fail(Errors.invalid(
          "connect",
          "Kafka: transactionalId is empty: give each producer a name of its own that stays over restarts."
        ))
      }
      return yield* make(settings, yield* transactional(settings, options.transactionalId))
    })
  )
