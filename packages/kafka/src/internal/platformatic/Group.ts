/**
 * The common part of a group member in either of Kafka's protocols.
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

/** The reader that a membership notifies. */
export interface Holder {
  /** Takes over newly assigned partitions. */
  readonly assign: (partitions: ReadonlyArray<Assigned>) => Effect.Effect<void, Failed>
  /** Gives partitions back; completes when their running messages are finished and committed. */
  readonly revoke: (partitions: ReadonlyArray<Assigned>) => Effect.Effect<void>
  /** Lists the partitions held now. */
  readonly held: () => ReadonlyArray<Assigned>
  /** Whether the reader is draining and takes no new partitions. */
  readonly stopped: () => boolean
}

/** A membership. */
export interface Group {
  /** Joins the group, and stays a member until an error. */
  readonly stay: Effect.Effect<never, Failed>
  /** Commits as this member, in its current generation or epoch: all or nothing. */
  readonly commit: (places: ReadonlyArray<Place>) => Effect.Effect<void, Failed>
  /** Returns the member with its current generation or epoch. */
  readonly member: () => Member
  /** Checks that the group still knows the member. */
  readonly confirm: Effect.Effect<unknown, Failed>
  readonly leave: Effect.Effect<void>
}

// transient errors: the group's coordinator moves, starts or loads its groups
const passing = new Set(["COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR"])

/** The broker that coordinates a group. */
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
   * Sends a request to the coordinator. If the coordinator has moved or is moving, finds it and retries, for up to
   * `sessionTimeout`.
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

  /** Sends a heartbeat; fails with `Lost` after `sessionTimeout` without an answer, when the group has removed the member. */
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

/** Converts positions to the form in which both protocols commit them. */
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
