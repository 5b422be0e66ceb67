/**
 * A member of a group, in either of Kafka's protocols: what both have in common.
 */
import { BrokerError } from "@millrace/core"
import { Clock, Effect } from "effect"
import type { Broker } from "@platformatic/kafka"
import type { Assigned } from "../Assigner.ts"
import type { Place } from "../Beginning.ts"
import * as Errors from "../Errors.ts"
import type { Member } from "../Membership.ts"
import type { ResolvedOptions } from "../Options.ts"
import type { Connection } from "./Connection.ts"

type Failed = BrokerError.BrokerError

/** What a membership tells the one who reads. */
export interface Holder {
  /** These are ours too from now on. */
  readonly assign: (partitions: ReadonlyArray<Assigned>) => Effect.Effect<void, Failed>
  /** These must be given back: completes when what runs is finished and committed. */
  readonly revoke: (partitions: ReadonlyArray<Assigned>) => Effect.Effect<void>
  /** What is held now. */
  readonly held: () => ReadonlyArray<Assigned>
  /** Whether nothing new is taken any more. */
  readonly stopped: () => boolean
}

/** A membership. */
export interface Group {
  /** Joins, and stays a member until it fails. */
  readonly stay: Effect.Effect<never, Failed>
  /** Commits as this member, in the generation or epoch that it is in: all or nothing. */
  readonly commit: (places: ReadonlyArray<Place>) => Effect.Effect<void, Failed>
  /** The member in that generation or epoch. */
  readonly member: () => Member
  /** Asks the group whether it still knows the member. */
  readonly confirm: Effect.Effect<unknown, Failed>
  readonly leave: Effect.Effect<void>
}

// what ends by itself: the group's coordinator moves, starts or loads its groups
const passing = new Set(["COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR"])

/** The broker that keeps a group. */
export class Coordinator {
  readonly settings: ResolvedOptions
  readonly group: string
  private readonly connection: Connection
  private readonly where: { readonly channel: string; readonly group: string }
  private known: Broker | undefined

  constructor(
    settings: ResolvedOptions,
    connection: Connection,
    where: { readonly channel: string; readonly group: string }
  ) {
    this.settings = settings
    this.connection = connection
    this.where = where
    this.group = where.group
  }

  failure(operation: Failed["operation"]) {
    return (error: unknown): Failed => Errors.fromUnknown(error, operation, { ...this.settings.place, ...this.where })
  }

  private async find(): Promise<Broker> {
    if (this.known !== undefined) return this.known
    const { coordinators: [found] } = await this.connection.ask("FindCoordinator", undefined, 0, [this.group])
    return this.known = { host: found!.host, port: found!.port }
  }

  /**
   * Asks the coordinator; where it is another one by now, or is about to be, it is looked for and asked again, for as long as
   * the group keeps a member without a sign of life.
   */
  ask<A>(
    operation: Failed["operation"],
    call: (connection: Connection, coordinator: Broker) => Promise<A>
  ): Effect.Effect<A, Failed> {
    const once = Effect.tryPromise({
      try: async () => await call(this.connection, await this.find()),
      catch: this.failure(operation)
    })
    return Effect.flatMap(Clock.currentTimeMillis, (started) => {
      const again: Effect.Effect<A, Failed> = Effect.catch(once, (error) => {
        const type = Errors.typeOf(error.cause)
        const mayPass = type === undefined
          ? error.reason === "Lost" || error.reason === "Unreachable"
          : passing.has(type)
        if (!mayPass) return Effect.fail(error)
        this.known = undefined
        return Effect.flatMap(Clock.currentTimeMillis, (now) =>
          now - started >= this.settings.consumer.sessionTimeout
            ? Effect.fail(error)
            : Effect.andThen(Effect.sleep("200 millis"), again))
      })
      return again
    })
  }

  /** A sign of life: without an answer for as long as the group keeps a member, it is none any more. */
  beat<A>(call: (connection: Connection, coordinator: Broker) => Promise<A>): Effect.Effect<A, Failed> {
    return Effect.timeoutOrElse(this.ask("consume", call), {
      duration: this.settings.consumer.sessionTimeout,
      orElse: () =>
        Effect.fail(BrokerError.make({
          system: "kafka",
          operation: "consume",
          reason: "Lost",
          message: `Kafka at ${this.settings.place.brokers} answers no sign of life of group ${this.group}.`
        }))
    })
  }
}

/** Positions, as both protocols commit them. */
export const offsetsOf = (places: ReadonlyArray<Place>) =>
  Array.from(Map.groupBy(places, ({ topic }) => topic), ([name, of]) => ({
    name,
    partitions: of.map(({ metadata = null, partition, position }) => ({
      partitionIndex: partition,
      committedOffset: BigInt(position),
      committedLeaderEpoch: -1,
      committedMetadata: metadata
    }))
  }))
