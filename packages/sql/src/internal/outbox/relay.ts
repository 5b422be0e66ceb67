/**
 * The loop of a relay: takes its share of the outbox, reads rows, sends them, and writes the results.
 *
 * Failed rows are sent apart from other rows, and a slow batch does not block the next one: so a slow or failing key
 * delays only itself. A relay whose broker accepts nothing for a whole lease stands by, and other relays take
 * its shards.
 */
import type { Broker, BrokerError } from "@millrace/core"
import { type Clock, Effect, Exit, Fiber, Latch, Semaphore } from "effect"
import { limited } from "../database/limited.ts"
import { patience } from "../postgres/listening.ts"
import { type Claims, type Share, shifted } from "./claims.ts"
import type { OutboxError } from "./error.ts"
import { Flight } from "./flight.ts"
import type { Stored } from "./rows.ts"
import * as Send from "./send.ts"

/** The settings of a loop; times in milliseconds. */
export interface Settings {
  readonly lease: number
  readonly poll: number
  readonly bytes: number
}

/** The state of a loop. */
export interface Shown {
  state: "starting" | "idle" | "sending" | "waiting" | "stopped"
  held: ReadonlySet<number>
  published: number
  failed: number
  parked: number
  lastPublished: number | undefined
  lastError: OutboxError | BrokerError.BrokerError | undefined
}

/** Milliseconds after which a running batch no longer delays the next one. */
const slow = 100

/** Milliseconds between two attempts to reach a broker that accepts nothing: the first, doubled up to the last. */
const pauses = { first: 100, last: 5000 }

/** Milliseconds until failed rows are read again, if more of them are due than are sent at one time. */
const pace = 25

/** The most payload bytes in flight, as a multiple of one batch's. */
const mostBatches = 8

/** The most rows in flight. */
const mostRows = 16_384

/** Makes a loop that is not running yet. */
export const make = (options: {
  readonly settings: Settings
  readonly claims: Claims
  readonly broker: Broker.Broker["Service"]
  readonly rules: Send.Rules
  readonly clock: Clock.Clock
}) => {
  const { broker, claims, clock, rules, settings } = options
  const latch = Latch.makeUnsafe(false)
  // one statement on the shares at a time, or a relay would lock itself out
  const tending = Semaphore.makeUnsafe(1)
  const flight = new Flight()
  const shown: Shown = {
    state: "starting",
    held: new Set(),
    published: 0,
    failed: 0,
    parked: 0,
    lastPublished: undefined,
    lastError: undefined
  }
  const every = Math.min(settings.lease / 6, 2000)
  /** By this process's own clock, counted from before the claim was sent: never later than the database's. */
  let heldUntil = 0
  let balancedAt = -Infinity
  let dueAt = -Infinity
  /** When to hold rows behind failed rows next, and until when to look for them. */
  let holdAt = -Infinity
  let holdUntil = -Infinity
  let releasedAt = -Infinity
  let retrying = 0
  let pause = 0
  let pausedUntil = -Infinity
  let isStopping = false
  let standsBy = false
  let progressAt = -Infinity
  let stalls = 0
  let rejoinAt = Infinity

  const now = (): number => Number(clock.currentTimeNanosUnsafe()) / 1e6
  const isHeld = (): boolean => now() < heldUntil
  const send = Send.make(broker, rules, isHeld)
  const rest = (time: number) => Effect.timeoutOption(latch.await, Math.max(1, time))

  const troubled = (error: OutboxError | BrokerError.BrokerError): void => {
    shown.state = "waiting"
    shown.lastError = error
  }

  const tend = (claim: () => Effect.Effect<Share, OutboxError>) =>
    tending.withPermit(Effect.suspend(() => {
      const from = now()
      return Effect.map(claim(), ({ held, isRenewed }) => {
        shown.held = held
        if (isRenewed) heldUntil = from + settings.lease
      })
    }))

  const progressed = (): void => {
    progressAt = now()
    pause = 0
    stalls = 0
    standsBy = false
  }

  const hasFailed = (): void => {
    holdAt = -Infinity
    holdUntil = now() + 2 * rules.cap
  }

  const release = (lanes: ReadonlyArray<string>): Effect.Effect<void, OutboxError> =>
    lanes.length === 0
      ? Effect.void
      : Effect.asVoid(Effect.repeat(claims.release(lanes), { while: (count) => count === shifted }))

  /** Writes results before later rows of their keys are sent, so that confirmed rows are not sent again. */
  const mark = (sent: Send.Sent): Effect.Effect<void> =>
    Effect.suspend(() => {
      const { done, failed } = sent.take()
      if (done.length === 0 && failed.length === 0) return Effect.void
      const parked = failed.flatMap(({ after, id }) => after === undefined ? [id] : [])
      const freed = flight.holding([...done, ...parked])
      if (parked.length < failed.length) hasFailed()
      return Effect.andThen(
        done.length === 0 ? Effect.void : claims.done(done),
        failed.length === 0 ? Effect.void : claims.failed(failed)
      ).pipe(
        Effect.tapError((error) => Effect.sync(() => troubled(error))),
        Effect.retry(patience),
        Effect.orDie,
        // if this release fails, the relay finds the rows later as forgotten ones
        Effect.andThen(Effect.ignore(release(freed))),
        Effect.andThen(Effect.sync(() => {
          flight.remove(done)
          flight.remove(failed.map(({ id }) => id))
          shown.published += done.length
          shown.failed += failed.length
          shown.parked += parked.length
          if (done.length > 0) shown.lastPublished = clock.currentTimeMillisUnsafe()
          latch.openUnsafe()
        }))
      )
    })

  /** Sends rows and writes their results, regularly and at the end. */
  const handle = (
    rows: ReadonlyArray<Stored>,
    how: (rows: ReadonlyArray<Stored>, sent: Send.Sent) => Effect.Effect<void>
  ): Effect.Effect<void> =>
    Effect.gen(function*() {
      const sent = new Send.Sent()
      const sending = yield* Effect.forkChild(how(rows, sent), { startImmediately: true })
      let isOver = false
      while (!isOver) {
        isOver = (yield* Effect.timeoutOption(Fiber.await(sending), slow))._tag === "Some"
        if (sent.isAnswered) progressed()
        sent.isAnswered = false
        yield* mark(sent)
      }
      shown.lastError = sent.lastError
      if (sent.stopped !== undefined) {
        troubled(sent.stopped)
        pause = Math.min(pauses.last, Math.max(pauses.first, pause * 2))
        pausedUntil = now() + pause
      }
    }).pipe(
      Effect.ensuring(Effect.sync(() => {
        flight.remove(rows.map(({ id }) => id))
        latch.openUnsafe()
      }))
    )

  const start = (
    rows: ReadonlyArray<Stored>,
    how: (rows: ReadonlyArray<Stored>, sent: Send.Sent) => Effect.Effect<void>
  ) => {
    if (flight.size === 0 && pause === 0) progressAt = now()
    flight.add(rows)
    shown.state = "sending"
    return Effect.forkChild(handle(rows, how), { startImmediately: true })
  }

  const isFull = () => flight.bytes >= settings.bytes * mostBatches || flight.size >= mostRows

  const retryDue = Effect.gen(function*() {
    const room = Send.concurrency - retrying
    if (room <= 0 || now() < dueAt) return
    const rows = yield* claims.due(shown.held, flight, room)
    dueAt = now() + (rows.length === room ? pace : Math.min(settings.poll, 500))
    if (rows.length === 0) return
    hasFailed()
    retrying += rows.length
    yield* start(
      rows,
      (rows, sent) => Effect.ensuring(send.apart(rows, sent), Effect.sync(() => void (retrying -= rows.length)))
    )
  })

  /** Holds rows behind failed ones, and releases rows that a dead relay left held. */
  const shift = Effect.gen(function*() {
    if (now() >= holdAt && now() < holdUntil) {
      const count = yield* claims.hold(shown.held)
      holdAt = count === 0 ? now() + settings.poll : -Infinity
    }
    if (now() - releasedAt >= settings.lease / 3) {
      yield* release(yield* claims.forgotten(shown.held))
      releasedAt = now()
    }
  })

  /** Looks at the outbox once. */
  const cycle: Effect.Effect<void, OutboxError | BrokerError.BrokerError> = Effect.gen(function*() {
    if (!isHeld()) yield* tend(() => claims.renew(standsBy))
    if (now() - balancedAt >= every) {
      yield* tend(() => claims.balance(standsBy, shown.held))
      balancedAt = now()
    }
    latch.closeUnsafe()
    if (now() < pausedUntil) {
      yield* Effect.sleep(Math.min(pausedUntil - now(), every))
      return
    }
    // while the broker accepts nothing, only one batch at a time probes it
    if (isFull() || (pause > 0 && flight.size > 0)) return yield* Effect.asVoid(rest(every))
    if (shown.held.size === 0) {
      shown.state = standsBy ? "waiting" : "idle"
      return yield* Effect.asVoid(rest(Math.min(settings.poll, every)))
    }
    if (pause === 0) yield* retryDue
    yield* shift
    const rows = yield* claims.next(shown.held, flight)
    if (rows.length > 0) {
      const running = yield* start(rows, send.together)
      yield* Effect.timeoutOption(Fiber.await(running), slow)
      return
    }
    if (flight.size === 0) {
      shown.state = "idle"
      shown.lastError = undefined
      progressed()
    }
    if (!isStopping) yield* rest(Math.min(settings.poll, dueAt - now()))
  })

  /** Runs until `stop`; `defective` makes an error of a defect. */
  const run = (defective: (defect: unknown) => OutboxError): Effect.Effect<void> =>
    Effect.suspend(() => cycle).pipe(
      // a running relay that does nothing would be worse
      Effect.catchDefect((defect) => Effect.fail(defective(defect))),
      Effect.tapError((error) => Effect.sync(() => troubled(error))),
      Effect.retry({ while: () => !isStopping, schedule: patience }),
      Effect.ignore,
      Effect.repeat({ while: () => !isStopping }),
      // wait for rows in flight
      Effect.andThen(Effect.repeat(Effect.delay(Effect.void, 5), { while: () => flight.size > 0 })),
      Effect.asVoid
    )

  const isStalled = (): boolean => (flight.size > 0 || pause > 0) && now() - progressAt >= settings.lease

  const role = Effect.suspend((): Effect.Effect<void> => {
    if (!standsBy) {
      if (!isStalled()) return Effect.void
      standsBy = true
      // with each further stall, other relays keep the shards for longer
      rejoinAt = now() + settings.lease * 2 ** Math.min(stalls++, 5)
      balancedAt = -Infinity
      return Effect.void
    }
    if (now() < rejoinAt) return Effect.void
    return Effect.map(Effect.exit(limited(broker.check, settings.lease, () => undefined)), (exit) => {
      if (Exit.isFailure(exit)) return
      standsBy = false
      progressAt = now()
      balancedAt = -Infinity
    })
  })

  const beat = Effect.andThen(role, Effect.suspend(() => tend(() => claims.renew(standsBy)))).pipe(
    // if this goes on, the claim expires
    Effect.tapError((error) => Effect.sync(() => void (shown.lastError = error))),
    Effect.ignoreCause,
    Effect.delay(settings.lease / 3),
    Effect.forever
  )

  return {
    shown,
    flight,
    run,
    beat,
    wake: (): void => void latch.openUnsafe(),
    stop: (): void => {
      isStopping = true
      latch.openUnsafe()
    },
    leave: tending.withPermit(claims.leave)
  }
}
