/**
 * Remembers the group member that received a message. A transaction that commits the message's offset must name that member,
 * because the partition may have moved to another member meanwhile.
 */
import type { BrokerError, Driver, Origin } from "@millrace/core"
import type { Effect } from "effect"

/** The identity of a member in its group. */
export interface Member {
  /** The generation; with the protocol "consumer" the member's epoch. */
  readonly generation: number
  readonly memberId: string
}

/** The lease that delivered messages. */
export interface Membership {
  /** The lanes of the subscription; undefined if the driver is used without an engine. */
  readonly lanes: Driver.ConsumeOptions["lanes"]
  /** Whether this member still holds the partition, to its knowledge. */
  readonly held: () => boolean
  /** The current identity of the member. */
  readonly member: () => Member
  /** Whether the generation may change during a lease, as the epoch does with the protocol "consumer". */
  readonly moves: boolean
  /** Asks the group whether the member still belongs to it; fails if not. */
  readonly confirm: Effect.Effect<unknown, BrokerError.BrokerError>
}

const memberships = new WeakMap<Origin, Membership>()

/** Remembers the lease whose deliveries have this origin. */
export const remember = (origin: Origin, membership: Membership): void => void memberships.set(origin, membership)

/** The lease of deliveries with this origin; undefined if no consumer of this package delivered them. */
export const of = (origin: Origin): Membership | undefined => memberships.get(origin)
