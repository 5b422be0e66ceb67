/**
 * Works on orders, and tells each step of it: a reply for each state, through the outbox.
 */
import { Correlate, Decode, Lanes, Log, type Message, type Parcel, Router, Stack, Status } from "@millrace/core"
import { type Duration, Effect, pipe } from "effect"
import { Cancelled, type Order, Placed } from "./contract.ts"
import { Jobs } from "./jobs.ts"
import { pack } from "./warehouse.ts"

/** After so many attempts an order has failed. */
const attempts = 5

/** What was cancelled while it was worked on stays cancelled. */
const unlessEnded = <A, E, R>(
  effect: Effect.Effect<A, E | Status.IllegalTransition, R>
): Effect.Effect<A | void, E, R> =>
  Effect.catchIf(
    effect,
    (error) => error instanceof Status.IllegalTransition,
    (refused) => Effect.log(`Too late: ${refused.message}`)
  )

const work = (takes: Duration.Input) =>
  Effect.fnUntraced(function*({ payload: { correlationId, data: order } }: Message<Parcel.OpenRequired<Order>>) {
    const job = { id: order.id, correlationId }
    const jobs = yield* Jobs
    const attempt = yield* jobs.begin(job)
    if (attempt === undefined) return yield* Effect.log(`${order.id} has ended, and came again`)
    yield* Effect.log(`${order.id}: attempt ${attempt}`)
    const missing = yield* Effect.catch(Effect.delay(pack(order, attempt), takes), (error) =>
      attempt < attempts
        ? Effect.andThen(jobs.move(job, "retrying", `${error.sku} cannot be packed now`), Effect.fail(error))
        : Effect.as(jobs.move(job, "failed", `${error.sku} could not be packed in ${attempts} attempts`), undefined))
    if (missing === undefined) return yield* Effect.log(`${order.id}: failed`)
    const status = missing.length === 0 ? "completed" : missing.length < order.lines.length ? "partial" : "failed"
    yield* jobs.move(
      job,
      status,
      missing.length === 0 ? undefined : `out of stock: ${missing.join(", ")}`.slice(0, 500)
    )
    yield* Effect.log(`${order.id}: ${status}`)
  }, unlessEnded)

const cancel = Effect.fnUntraced(
  function*({ payload: { correlationId, data: { id } } }: Message<Parcel.OpenRequired<{ readonly id: string }>>) {
    yield* (yield* Jobs).move({ id, correlationId }, "cancelled")
    yield* Effect.log(`${id}: cancelled`)
  },
  unlessEnded
)

/** The subscriptions of the worker; `takes` is how long an attempt does. */
export const subscriptions = (takes: Duration.Input) =>
  Router.make({
    group: "web-worker",
    backoff: { base: "200 millis", cap: "2 seconds" },
    through: Stack.start().use(Correlate.middleware()).use(Log.middleware({ levels: { done: "Debug" } }))
  })
    .add(Placed, { name: "work", lanes: Lanes.key(16) }, pipe(work(takes), Decode.middleware(Placed)))
    .add(Cancelled, { name: "cancel", lanes: Lanes.key(16) }, pipe(cancel, Decode.middleware(Cancelled)))
    .subscriptions
