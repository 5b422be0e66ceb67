/**
 * News from PostgreSQL by LISTEN, on a connection of their own: listened for again after each failure, with one Warn line for each
 * time without news.
 */
import type { PgClient } from "@effect/sql-pg"
import { Duration, Effect, Queue, Schedule } from "effect"
import { limited } from "../database/limited.ts"

/** The wait between two attempts: from 100 ms to 5 seconds. */
export const patience = Schedule.exponential("100 millis").pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(5))))
)

/** Milliseconds in which a client with a connection left besides the listening one answers. */
const probe = 1000

/** The parts of a listener. */
export interface Options {
  readonly pg: PgClient.PgClient
  readonly channel: string
  /** Module and table, in log lines. */
  readonly name: string
  /** The news, e.g. `new rows`. */
  readonly news: string
  /** A sentence that says what is done without news, e.g. `the relay looks for rows by poll alone`. */
  readonly instead: string
  /** A statement, to learn whether the client has a connection left. */
  readonly ask: Effect.Effect<unknown, object>
  /** Called when it listens: news from before are lost. */
  readonly onListening?: () => void
  readonly onNotice: (payload: string | undefined) => void
}

/** Listens until it is interrupted, as long as the client has connections left besides the listening one. */
export const listening = (
  { ask, channel, instead, name, news, onListening, onNotice, pg }: Options
): Effect.Effect<void> => {
  const alone = Effect.logWarning(
    `${name}: the client has no connection left beside one that listens, so ${instead}: `
      + "give the client more connections (maxConnections)"
  )
  // a pool's configuration has this field
  if ("maxConnections" in pg.config && pg.config.maxConnections === 1) return alone
  let isTold = false
  const deaf = (error: { readonly message: string }) =>
    Effect.suspend(() => {
      if (isTold) return Effect.void
      isTold = true
      return Effect.logWarning(
        `${name}: PostgreSQL tells of no ${news} (${error.message}), so ${instead} until LISTEN works again`
      )
    })
  return Effect.scoped(Effect.gen(function*() {
    const notices = yield* pg.listen(channel)
    isTold = false
    onListening?.()
    yield* limited(ask, probe, () => undefined).pipe(
      Effect.tapError((error) => error === undefined ? Effect.ignoreCause(alone) : Effect.void)
    )
    return yield* Effect.forever(
      Effect.flatMap(Queue.take(notices), ({ payload }) => Effect.sync(() => onNotice(payload)))
    )
  })).pipe(
    Effect.tapError((error) =>
      // a client without a spare connection is tried again after a while
      error === undefined
        ? Effect.sleep("1 minute")
        : "message" in error
        ? Effect.ignoreCause(deaf({ message: String(error.message) }))
        : Effect.void
    ),
    Effect.retry(patience),
    Effect.ignoreCause
  )
}
