/**
 * A layer between a driver and the engine: checks that both keep to the protocol of leases, and breaks connections and calls
 * on demand.
 */
import { BrokerError, type Delivery, type Driver, type Outgoing } from "@millrace/core"
import { Deferred, Effect, Exit, Scope } from "effect"

type Failed = BrokerError.BrokerError

interface Held {
  readonly lease: Driver.Lease
  readonly home: string
  last: number
  state: "open" | "leaving" | "closed"
}

/** The faults that a scenario may inject. */
interface Faults {
  /** The error that publishing this message fails with, if any. */
  publish: (message: Outgoing<Uint8Array>) => Failed | undefined
  /** The error that the next commit or settlement fails with, if any. */
  settle: () => Failed | undefined
}

/** The error of a connection that ended in the middle. */
export const lost = (operation: Failed["operation"]): Failed =>
  BrokerError.make({ system: "contract", operation, reason: "Lost", message: "The contract suite broke this call." })

/** One monitored driver. */
export class Monitor {
  /** The driver for the engine. */
  readonly driver: Driver.Driver
  /** Violations of the protocol, in order of occurrence. */
  readonly violations: Array<string> = []
  readonly faults: Faults = { publish: () => undefined, settle: () => undefined }
  /** Leases opened so far. */
  opened = 0
  /**
   * Whether the last lease keeps messages that are settled beyond the commit position, and how many positions the last
   * commit named.
   */
  keepsBeyond = false
  settledBeyond = 0
  /** The claim of the last opened lease in milliseconds: the time for handling a message without an extension. */
  claim: number | undefined
  /** Messages that the driver has offered so far. */
  offered = 0
  /** The committed position of each partition of a group: all messages below it are done. */
  readonly committed = new Map<string, number>()
  /** Messages that were settled as done individually. */
  settledAlone = 0
  private readonly inner: Driver.Driver
  private readonly owners = new Map<string, Held>()
  private readonly cuts = new Map<string, Set<Deferred.Deferred<never, Failed>>>()

  constructor(inner: Driver.Driver) {
    this.inner = inner
    this.driver = {
      system: inner.system,
      capabilities: inner.capabilities,
      consume: (options, sink) => this.consume(options, sink),
      publish: (batch) => {
        for (const message of batch) {
          const error = this.faults.publish(message)
          if (error !== undefined) return Exit.fail(error)
        }
        return inner.publish(batch)
      },
      declare: inner.declare,
      browse: inner.browse,
      check: inner.check,
      lag: inner.lag
    }
  }

  /** Breaks the connections of a subscription; the engine restarts them. */
  cut(name: string): Effect.Effect<void> {
    return Effect.forEach(
      Array.from(this.cuts.get(name) ?? []),
      (each) => Deferred.fail(each, lost("consume")),
      { discard: true }
    )
  }

  /** The committed position of a group in a partition; 0 before the first commit. */
  position(channel: string, group: string, partition: number): number {
    return this.committed.get(`${channel} ${group} ${partition}`) ?? 0
  }

  private broken(home: string, what: string): void {
    this.violations.push(`${home}: ${what}`)
  }

  private consume(options: Driver.ConsumeOptions, sink: Driver.Sink): Effect.Effect<void, Failed, Scope.Scope> {
    const { inner } = this
    return Effect.gen({ self: this }, function*() {
      const cut = yield* Deferred.make<never, Failed>()
      const cuts = this.cuts.get(options.handler) ?? new Set()
      this.cuts.set(options.handler, cuts.add(cut))
      const held = new Map<Driver.Lease, Held>()
      const own = yield* Scope.make()
      yield* Effect.addFinalizer((exit) =>
        Effect.suspend(() => {
          cuts.delete(cut)
          // while the driver leaves its group, the broker may give its partitions to other consumers
          for (const each of held.values()) if (each.state === "open") each.state = "leaving"
          return Scope.close(own, exit)
        })
      )
      const consume = Scope.provide(inner.consume(options, this.sink(options, sink, held)), own)
      return yield* Effect.raceFirst(consume, Deferred.await(cut))
    })
  }

  private sink(options: Driver.ConsumeOptions, sink: Driver.Sink, all: Map<Driver.Lease, Held>): Driver.Sink {
    const of = (lease: Driver.Lease): Held => {
      const found = all.get(lease)
      if (found !== undefined) return found
      const home = `${lease.channel ?? options.channel} ${options.group} ${lease.partition}`
      this.broken(home, "a lease was used that had never been opened")
      return { lease, home, last: -1, state: "closed" }
    }
    return {
      ready: sink.ready,
      polled: sink.polled,
      open: (lease) => {
        const home = `${lease.channel ?? options.channel} ${options.group} ${lease.partition}`
        const held: Held = { lease: this.lease(lease, home, () => held), home, last: -1, state: "open" }
        const before = this.owners.get(home)
        if (lease.commit !== undefined && before?.state === "open") {
          this.broken(home, `${options.handler} was given the partition while another consumer had it`)
        }
        this.owners.set(home, held)
        all.set(lease, held)
        this.opened++
        this.claim = lease.claim
        this.keepsBeyond = lease.keepsBeyond === true
        sink.open(held.lease)
      },
      offer: (lease, batch) => {
        const held = of(lease)
        if (held.state === "closed") this.broken(held.home, "messages were offered after their lease had ended")
        if (batch.length > options.batch) {
          this.broken(
            held.home,
            `${batch.length} messages were offered at once, ${options.batch} is the most that was asked for`
          )
        }
        if (lease.commit !== undefined) this.inOrder(held, batch)
        this.offered += batch.length
        return sink.offer(held.lease, batch)
      },
      settled: (lease) => sink.settled(of(lease).lease),
      close: (lease, how) =>
        Effect.suspend(() => {
          const held = of(lease)
          if (how === "lost") held.state = "closed"
          return Effect.ensuring(
            sink.close(held.lease, how),
            Effect.sync(() => {
              held.state = "closed"
            })
          )
        })
    }
  }

  private inOrder(held: Held, batch: ReadonlyArray<Delivery>): void {
    const committed = this.committed.get(held.home) ?? 0
    for (const { position } of batch) {
      if (position <= held.last) this.broken(held.home, `position ${position} was offered after ${held.last}`)
      if (position < committed) {
        this.broken(held.home, `position ${position} came again, and ${committed} was committed`)
      }
      held.last = position
    }
  }

  private lease(lease: Driver.Lease, home: string, held: () => Held): Driver.Lease {
    const { commit, settle } = lease
    const guard = (call: () => Effect.Effect<void, Failed>): Effect.Effect<void, Failed> => {
      if (held().state === "closed") this.broken(home, "it was settled after its lease had ended")
      const error = this.faults.settle()
      return error === undefined ? call() : Exit.fail(error)
    }
    return {
      ...lease,
      commit: commit && ((position, beyond) => {
        const before = this.committed.get(home) ?? 0
        if (position < before) this.broken(home, `the commit went back from ${before} to ${position}`)
        const beyondIt = lease.keepsBeyond === true ? beyond?.() ?? [] : []
        return guard(() =>
          Effect.mapEager(commit(position, beyond), () => {
            this.committed.set(home, position)
            this.settledBeyond = beyondIt.reduce((sum, { from, to }) => sum + to - from, 0)
          })
        )
      }),
      settle: settle && ((batch) =>
        guard(() =>
          Effect.mapEager(settle(batch), () => {
            this.settledAlone += batch.filter(({ outcome }) =>
              outcome._tag !== "Retry" && outcome._tag !== "Release"
            ).length
          })
        ))
    }
  }
}
