/**
 * Backpressure: the most messages and bytes in flight. Each lease reserves half of an equal share and may use all the rest, so a
 * stuck partition does not stop the others.
 */
import type { Consumer } from "../../broker/Broker.ts"
import type { LeaseState } from "./LeaseState.ts"

/** The intake of all leases of a consumer. */
export class Room {
  private readonly limit: Consumer<never>["inFlight"]
  private readonly leases: ReadonlyMap<unknown, LeaseState>
  private readonly closed = new Set<LeaseState>()
  /** The subscription is paused. */
  isShut = false

  constructor(limit: Consumer<never>["inFlight"], leases: ReadonlyMap<unknown, LeaseState>) {
    this.limit = limit
    this.leases = leases
  }

  get pending(): number {
    return this.sum("unsettled")
  }

  get pendingBytes(): number {
    return this.sum("bytes")
  }

  /** Closes the intake of leases without room, after a lease has received messages; it opens when half of the room is free. */
  check(lease: LeaseState): void {
    if (this.isShut || !this.fits(lease, 1)) this.close(lease)
    const { bytes, messages } = this.limit
    if (this.pending < messages && this.pendingBytes < bytes) return
    for (const other of this.leases.values()) if (!this.fits(other, 1)) this.close(other)
  }

  private close(lease: LeaseState): void {
    this.closed.add(lease)
    lease.closeRoom()
  }

  /** Opens the intake of the leases that have room again. */
  update(): void {
    if (this.isShut) return
    for (const lease of this.closed) if (this.fits(lease, 0.5)) this.end(lease)
  }

  /** Closes all intakes, for a paused subscription. */
  shut(): void {
    this.isShut = true
    for (const lease of this.leases.values()) this.close(lease)
  }

  open(): void {
    this.isShut = false
    this.update()
  }

  /** Reopens the intake of a lease that has room again, or has ended: its driver stops waiting. */
  end(lease: LeaseState): void {
    this.closed.delete(lease)
    lease.openRoom()
  }

  private fits(lease: LeaseState, part: number): boolean {
    const { bytes, messages } = this.limit
    return this.isBelow(lease, "unsettled", messages, part) && this.isBelow(lease, "bytes", bytes, part)
  }

  private isBelow(lease: LeaseState, field: "unsettled" | "bytes", limit: number, part: number): boolean {
    const reserve = limit / (2 * this.leases.size)
    let rest = limit
    for (const other of this.leases.values()) if (other !== lease) rest -= Math.max(other[field], reserve)
    const most = Math.max(reserve, rest) * part
    return part === 1 ? lease[field] < most : lease[field] <= most
  }

  private sum(field: "unsettled" | "bytes"): number {
    let sum = 0
    for (const lease of this.leases.values()) sum += lease[field]
    return sum
  }
}
