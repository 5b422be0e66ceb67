import { DeadLetter, type Delivery, Eager, type Handler, Middleware, Retry } from "@millrace/core"
import { Data, Effect, Exit, Schedule } from "effect"
import { type Bench, measure } from "./Bench.ts"
import * as Peers from "./peers.ts"

class Refused extends Data.TaggedError("Refused") {}

let sum = 0
const base: Handler<Delivery, number, Refused> = (message) => Exit.succeed(sum += message.position)

const pass = Middleware.make()({ name: "Pass", stage: "consume" }, (next) => (message) => next(message))

// eight of one kind, so that one is far above the noise
const eight = (wrap: (next: Handler<Delivery, unknown, Refused>) => Handler<Delivery, unknown, unknown>) => {
  let handler: Handler<Delivery, unknown, Refused> = base
  // what a wrapper takes out of E does not matter to the next one here
  for (let i = 0; i < 8; i++) handler = wrap(handler) as Handler<Delivery, unknown, Refused>
  return (count: number) => {
    let i = 0
    return Effect.runPromise(Effect.whileLoop({
      while: () => i < count,
      step: () => {},
      body: () =>
        Effect.suspend(() => {
          const end = Math.min(i + 256, count)
          while (i < end) {
            const result = handler(Peers.deliveries[i++ & 1023]!)
            if (!Eager.isDone(result)) return Effect.asVoid(Effect.exit(result))
          }
          return Effect.void
        })
    }))
  }
}

const mapError = Middleware.make()(
  { name: "MapError", stage: "consume" },
  (next) => (message) => Effect.mapErrorEager(next(message), (error) => error)
)

/** P2: what a wrapper for failures costs when nothing fails. */
export const wrappers: Bench = {
  name: "wrappers",
  about: "8 error-mapping, retry or dead-letter wrappers around a handler that succeeds, beside Effect's own",
  rounds: 3,
  variants: [
    { name: "millrace, passing on", whose: "millrace", run: () => measure(eight(pass)) },
    { name: "millrace, error mapping", whose: "millrace", run: () => measure(eight(mapError)) },
    {
      name: "millrace, Retry",
      whose: "millrace",
      run: () => measure(eight(Retry.middleware({ times: 3 })))
    },
    {
      name: "millrace, DeadLetter",
      whose: "millrace",
      run: () => measure(eight(DeadLetter.tags("Refused")))
    },
    {
      name: "Effect.retry",
      whose: "peer",
      run: () =>
        measure(
          eight((next) => (message) =>
            Effect.retry(next(message), { schedule: Schedule.exponential("1 second"), times: 3 })
          )
        )
    },
    {
      name: "Effect.catchCause",
      whose: "peer",
      run: () => measure(eight((next) => (message) => Effect.catchCause(next(message), Effect.failCause)))
    }
  ],
  goals: [
    ...(["error mapping", "Retry", "DeadLetter"] as const).map((kind) => ({
      id: "P2",
      text: `${kind}, microseconds a wrapper`,
      target: 0.05,
      better: "lower" as const,
      measured: (of: (variant: string) => { readonly cpu: number }) => of(`millrace, ${kind}`).cpu / 8
    })),
    {
      id: "P2",
      text: "Retry, times cheaper than Effect.retry",
      target: 50,
      better: "higher",
      measured: (of) => of("Effect.retry").cpu / of("millrace, Retry").cpu
    }
  ]
}
