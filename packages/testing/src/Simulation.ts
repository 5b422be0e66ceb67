/**
 * Deterministic simulation: a program runs in a seeded world with a scheduler and a clock of its own, over the memory
 * broker, so that thousands of histories of crashes, rebalances, drains, outages and failing calls pass in seconds, and each
 * can be replayed by its number.
 *
 * All time must come from Effect's clock and all randomness from `Random` or the world. A Promise, a real timer or the time
 * of day inside a program makes its histories stand still, or not replay; `check` says which.
 *
 * **Example** (a handler that counts redelivered messages twice)
 *
 * ```ts
 * import { Channel, Decode, Publisher, Stack, Subscription } from "@millrace/core"
 * import { Simulation } from "@millrace/testing"
 * import { Effect, Schema } from "effect"
 *
 * const Payment = Schema.Struct({ id: Schema.String, amount: Schema.Number })
 * const Payments = Channel.make("payments", { payload: Payment, key: ({ id }) => id })
 * const payments = Array.from({ length: 20 }, (_, i) => ({ id: `p${i}`, amount: 1 }))
 *
 * const program = (book: (rows: Map<string, number>, payment: typeof Payment.Type) => number) =>
 *   Effect.fnUntraced(function*(world: Simulation.World) {
 *     // made outside of the consumer, as a database is: it outlives a crash
 *     const rows = new Map<string, number>()
 *     const handler = Stack.start().use(Decode.middleware(Payments)).handle(({ payload }) =>
 *       Effect.andThen(Effect.sleep(world.integer(0, 20)), Effect.sync(() => rows.set(payload.id, book(rows, payload))))
 *     )
 *     const subscription = Subscription.make(Payments, { group: "ledger", name: "book" }, handler)
 *     yield* Simulation.storm(world, {
 *       consumer: Subscription.run(subscription),
 *       producer: Publisher.make(Payments).publishAll(payments)
 *     })
 *     for (const { amount, id } of payments) world.expect(rows.get(id) === amount, `${id} is booked as ${rows.get(id)}`)
 *   })
 *
 * const wrong = program((rows, { amount, id }) => (rows.get(id) ?? 0) + amount)
 * const failed = await Effect.runPromise(Effect.flip(Simulation.check(wrong)))
 * console.log(failed.faults.length > 0, failed.log.length > 0) // => true true
 *
 * const right = program((_, { amount }) => amount)
 * const { seeds } = await Effect.runPromise(Simulation.check(right, { seeds: 100 }))
 * console.log(seeds) // => 100
 * ```
 */
export { check, type Checked, type CheckOptions, Failed } from "./internal/simulation/Check.ts"
export { run } from "./internal/simulation/Machine.ts"
export {
  type Faults,
  make as network,
  type Network,
  type Operation,
  type Watch
} from "./internal/simulation/Network.ts"
export { type Storm, storm } from "./internal/simulation/Storm.ts"
export type { Held, History, Options, Process, World } from "./internal/simulation/World.ts"
