/**
 * Which member of a group took a message: a transaction that moves the group behind it must name that member, or its partition
 * may be another member's by then.
 */
import type { BrokerError, Driver, Origin } from "@millrace/core"
import type { Effect } from "effect"

/** A member as its group knows it. */
export interface Member {
  /** The generation, or by the protocol "consumer" the member's epoch. */
  readonly generation: number
  readonly memberId: string
}

/** The lease under which messages came. */
export interface Membership {
  /** The lanes of the subscription; undefined where a driver is used by itself. */
  readonly lanes: Driver.ConsumeOptions["lanes"]
  /** Whether the partition is still this member's, as far as it knows. */
  readonly held: () => boolean
  /** The member now. */
  readonly member: () => Member
  /** Whether the generation changes under a lease, as the epoch does by the protocol "consumer". */
  readonly moves: boolean
  /** Asks the group for the member: fails where it is none any more. */
  readonly confirm: Effect.Effect<unknown, BrokerError.BrokerError>
}

const memberships = new WeakMap<Origin, Membership>()

/** Remembers the lease whose deliveries have this origin. */
export const remember = (origin: Origin, membership: Membership): void => void memberships.set(origin, membership)

/** The lease of deliveries with this origin; undefined where they did not come from a consumer of this package. */
export const of = (origin: Origin): Membership | undefined => memberships.get(origin)
