/**
 * The lock that decides which process reads, if a group reads in order: an entry of a bucket that only its owner can renew.
 *
 * Each change of the entry names the revision that it replaces, so of two candidates the server refuses one. Clocks of
 * different processes are never compared: a standby process takes over when it has seen the same revision for the owner's
 * `takeover` time, and an owner that could not renew for that time gives up before that.
 */
import type { BrokerError } from "@millrace/core"
import { jetstream, JetStreamApiCodes, JetStreamApiError } from "@nats-io/jetstream"
import { type KV, Kvm } from "@nats-io/kv"
import { nuid } from "@nats-io/transport-node"
import { type Clock, Effect } from "effect"
import type { ResolvedOptions } from "./Options.ts"
import type { Client, Connection } from "../Connection.ts"
import * as Errors from "../Errors.ts"

type Failed = BrokerError.BrokerError

interface Entry {
  readonly owner: string
  /** Milliseconds without renewal after which any process may take the lock. */
  readonly takeover: number
}

const isTaken = (error: unknown): boolean =>
  error instanceof JetStreamApiError &&
  (error.code === JetStreamApiCodes.StreamWrongLastSequence ||
    error.code === JetStreamApiCodes.StreamWrongLastSequenceUnknown)

/**
 * Locks of this process that it could not release, mostly because the connection ended: key to owner. This process may take
 * them over at once.
 */
export type Left = Map<string, string>

/** The lock of one reader. */
export class Lock {
  private readonly client: Client
  private readonly settings: ResolvedOptions
  private readonly connection: Connection
  private readonly key: string
  private readonly group: string
  private readonly replicas: number
  private readonly left: Left
  private readonly clock: Clock.Clock
  private readonly owner = nuid.next()
  private bucket: Promise<KV> | undefined
  private revision = 0
  private renewed = Number.NEGATIVE_INFINITY
  private isReleased = false

  constructor(options: {
    readonly client: Client
    readonly settings: ResolvedOptions
    readonly connection: Connection
    readonly key: string
    readonly group: string
    readonly replicas: number
    readonly left: Left
    readonly clock: Clock.Clock
  }) {
    this.client = options.client
    this.settings = options.settings
    this.connection = options.connection
    this.key = options.key
    this.group = options.group
    this.replicas = options.replicas
    this.left = options.left
    this.clock = options.clock
  }

  /** Whether no other process can hold the lock. */
  get isMine(): boolean {
    return this.clock.currentTimeMillisUnsafe() - this.renewed < this.settings.takeover
  }

  private get entry(): string {
    const entry: Entry = { owner: this.owner, takeover: this.settings.takeover }
    return JSON.stringify(entry)
  }

  private async open(): Promise<KV> {
    const { bucket, domain } = this.settings
    const js = jetstream(this.connection.nc, {
      timeout: this.client.options.requestTimeout,
      ...(domain === undefined ? {} : { domain })
    })
    return await new Kvm(js).create(bucket, { history: 1, replicas: this.replicas })
  }

  private call<A>(run: (bucket: KV) => Promise<A>): Effect.Effect<A, Failed> {
    return this.connection.attempt("consume", async () => {
      this.bucket ??= this.open()
      return await run(await this.bucket)
    }, { channel: `the bucket ${this.settings.bucket}`, group: this.group })
  }

  /** Replaces a revision (0 for none) with our entry; false if another process was first. */
  private take(revision: number): Effect.Effect<boolean, Failed> {
    return Effect.suspend(() => {
      const before = this.clock.currentTimeMillisUnsafe()
      return this.call(async (bucket) => {
        try {
          return revision === 0
            ? await bucket.create(this.key, this.entry)
            : await bucket.update(this.key, this.entry, revision)
        } catch (error) {
          if (isTaken(error)) return undefined
          throw error
        }
      }).pipe(Effect.map((written) => {
        if (written === undefined) return false
        this.revision = written
        // the time before the call: the server writes the entry later
        this.renewed = before
        return true
      }))
    })
  }

  private read(): Effect.Effect<{ readonly revision: number; readonly entry: Entry } | undefined, Failed> {
    return this.call(async (bucket) => {
      const found = await bucket.get(this.key)
      if (found === null || found.operation !== "PUT") return undefined
      // only locks write to this bucket
      return { revision: found.revision, entry: found.json<Entry>() }
    })
  }

  /** Waits until this process holds the lock, without a time limit. */
  readonly acquire: Effect.Effect<void, Failed> = Effect.gen({ self: this }, function*() {
    let seen = { revision: 0, at: 0 }
    while (true) {
      const found = yield* this.read()
      if (found === undefined) {
        if (yield* this.take(0)) return
      } else {
        const now = this.clock.currentTimeMillisUnsafe()
        if (found.revision !== seen.revision) seen = { revision: found.revision, at: now }
        const { owner, takeover } = found.entry
        const isFree = owner === this.owner || this.left.get(this.key) === owner || now - seen.at >= takeover
        if (isFree && (yield* this.take(found.revision))) {
          this.left.delete(this.key)
          return
        }
      }
      yield* Effect.sleep(Math.max(20, Math.min(1000, this.settings.takeover / 10)))
    }
  })

  /** Renews the lock; fails when it is lost. */
  readonly keep: Effect.Effect<never, Failed> = Effect.suspend(() => {
    const { takeover } = this.settings
    const renew = Effect.gen({ self: this }, function*() {
      if (yield* this.take(this.revision)) return
      const found = yield* this.read()
      // our own renewal, whose confirmation was lost
      if (found?.entry.owner === this.owner) this.revision = found.revision
      else {
        this.renewed = Number.NEGATIVE_INFINITY
        return yield* Effect.fail(this.lost)
      }
    })
    const again: Effect.Effect<void, Failed> = Effect.catch(renew, (error) =>
      this.isMine && error.retriable
        ? Effect.andThen(Effect.sleep(takeover / 10), Effect.suspend(() => again))
        : Effect.fail(error))
    // after `takeover` another process may hold the lock, so fail without asking the server: running handlers must stop now
    const next = Effect.suspend(() => this.isMine ? again : Effect.fail(this.lost))
    return Effect.forever(Effect.andThen(Effect.sleep(takeover / 3), next))
  })

  /** Releases the lock, so that another process need not wait. */
  readonly release: Effect.Effect<void> = Effect.suspend(() => {
    if (this.isReleased) return Effect.void
    this.isReleased = true
    if (this.connection.ended !== undefined) {
      this.left.set(this.key, this.owner)
      return Effect.void
    }
    return this.read().pipe(
      Effect.flatMap((found) =>
        found?.entry.owner === this.owner
          ? this.call((bucket) => bucket.delete(this.key, { previousSeq: found.revision }))
          : Effect.void
      ),
      Effect.catch(() => Effect.sync(() => void this.left.set(this.key, this.owner)))
    )
  })

  /** The error of a lock that another process may hold. */
  get lost(): Failed {
    return Errors.make(
      "settle",
      "Lost",
      `Group ${this.group} has another reader by now: this one gave no sign of life for ${this.settings.takeover} ms.`
    )
  }
}
