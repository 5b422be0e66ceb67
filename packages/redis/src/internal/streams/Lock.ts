/**
 * The lock of the one consumer of a group that reads in order: a key that expires, with a token for each holder.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Deferred, Effect } from "effect"
import type * as Client from "../client/Client.ts"
import * as Keys from "../client/Keys.ts"
import * as Scripts from "./Scripts.ts"
import type { Streams } from "./Streams.ts"

type Failed = BrokerError.BrokerError

/** The most renewals whose replies have not arrived: three minutes of a lock of half a second. */
const mostRenewals = 1000

/** The lock of a group, for one consumer. */
export class Lock {
  readonly key: string
  readonly token: string
  private readonly streams: Streams
  private readonly options: Driver.ConsumeOptions

  constructor(streams: Streams, options: Driver.ConsumeOptions, token: string) {
    this.streams = streams
    this.options = options
    this.key = Keys.beside(options.channel, options.group, "lock")
    this.token = token
  }

  private run(
    operation: Failed["operation"],
    script: Client.Script,
    args: ReadonlyArray<Client.Argument>
  ): Effect.Effect<unknown, Failed> {
    return this.streams.connection.perform(operation, script, [this.key], args, this.options)
  }

  /** Stands by until this consumer holds the lock; calls `polled` after each failed attempt. */
  acquire(polled: () => void): Effect.Effect<void, Failed> {
    return Effect.gen({ self: this }, function*() {
      const { times } = this.streams
      while (true) {
        const over = this.streams.abandoned(this.key)
        const taken = yield* this.run("consume", Scripts.lock, [this.token, times.lock, ...over])
        if (taken === 1) return
        polled()
        yield* Effect.sleep(times.standBy)
      }
    })
  }

  /**
   * Renews the lock until interrupted; fails when another consumer holds it. It does not wait for the reply to the renewal
   * before: replies of a connection come in order, and a large message in front may take longer than the lock lasts.
   */
  readonly keep: Effect.Effect<never, Failed> = Effect.scoped(Effect.gen({ self: this }, function*() {
    const { lock } = this.streams.times
    const gone = yield* Deferred.make<never, Failed>()
    let waiting = 0
    const renew = Effect.suspend(() => this.run("settle", Scripts.renew, [this.token, lock])).pipe(
      Effect.catch((error) => Deferred.fail(gone, error)),
      Effect.ensuring(Effect.sync(() => waiting--))
    )
    const turn = Effect.suspend(() => {
      if (waiting >= mostRenewals) return Effect.void
      waiting++
      return Effect.forkScoped(renew, { startImmediately: true })
    })
    // the first renewal comes before the first message: a server that does not know the script yet says so in a reply
    const renewals = Effect.forever(Effect.andThen(turn, Effect.sleep(lock / 3)))
    return yield* Effect.raceFirst(renewals, Deferred.await(gone))
  }))

  /** Releases the lock; if that fails, the next consumer in this process may still take it. */
  get release(): Effect.Effect<void> {
    return Effect.catch(
      Effect.asVoid(this.run("settle", Scripts.unlock, [this.token])),
      () => Effect.sync(() => this.streams.abandon(this.key, this.token))
    )
  }
}
