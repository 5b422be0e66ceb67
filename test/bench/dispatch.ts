import { type Delivery, Eager, type Handler, Middleware } from "@millrace/core"
import { Data, Effect, Exit } from "effect"
import { type Bench, measure, type Variant } from "./Bench.ts"
import * as Peers from "./peers.ts"

let hops = 0
let sum = 0

const trivial = () =>
  Middleware.make()({ name: "Trivial", stage: "consume" }, (next) => (message) => {
    hops++
    return next(message)
  })

class Refused extends Data.TaggedError("Refused") {}

/** Work before and after, whatever happened. */
const both = () =>
  Middleware.make()({ name: "Both", stage: "consume" }, (next) => (message) => {
    hops++
    return Eager.around(message, next, () => {
      hops--
    })
  })

/** An error that stays typed on its way out. */
const typed = () =>
  Middleware.make()({ name: "Typed", stage: "consume" }, (next) => (message) => {
    hops++
    return Effect.mapErrorEager(next(message), (error) => error)
  })

/** A new answer at every step. */
const mapped = () =>
  Middleware.make()(
    { name: "Mapped", stage: "consume" },
    (next) => (message) => Effect.mapEager(next(message), (answer) => answer)
  )

const base: Handler<Delivery, number, Refused> = (message) => Exit.succeed(sum += message.position)

/** The engine's way: one fiber, chunks of 256, an Effect only for what has not finished. */
const loop = (handler: Handler<Delivery, unknown, unknown>) => (count: number) => {
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

const stack = (depth: number, middleware: ReturnType<typeof trivial>) =>
  Array.from({ length: depth }).reduce<Handler<Delivery, number, Refused>>((next) => middleware(next), base)

type Step = (next: Handler<Delivery, number>) => Handler<Delivery, number>

const plainEffect = (step: Step) =>
  Array.from({ length: 8 }).reduce<Handler<Delivery, number>>(
    (next) => step(next),
    (message) => Effect.sync(() => sum += message.position)
  )

const ours = (name: string, handler: Handler<Delivery, unknown, unknown>): Variant => ({
  name,
  whose: "millrace",
  run: () => measure(loop(handler))
})

const peer = (
  name: string,
  make: () => ((count: number) => unknown) | Promise<(count: number) => unknown>
): Variant => ({
  name,
  whose: name === "plain functions" ? "limit" : "peer",
  run: async () => measure(await make())
})

/** P1: what a middleware costs. */
export const dispatch: Bench = {
  name: "dispatch",
  about: "one message through 8 trivial middlewares, beside the middleware of others",
  rounds: 3,
  variants: [
    ours("millrace", stack(8, trivial())),
    ours("millrace, before and after", stack(8, both())),
    ours("millrace, typed errors", stack(8, typed())),
    ours("millrace, new answers", stack(8, mapped())),
    ours("millrace, no middleware", base),
    peer("plain functions", () => Peers.plain(8)),
    peer("koa-compose", () => Peers.koa(8)),
    peer("Moleculer", () => Peers.moleculer(8)),
    peer("RxJS", () => Peers.rxjs(8)),
    peer("NestJS microservice", () => Peers.nest(8)),
    {
      name: "Effect.map",
      whose: "peer",
      run: () => measure(loop(plainEffect((next) => (message) => Effect.map(next(message), (answer) => answer))))
    },
    {
      name: "Effect.gen",
      whose: "peer",
      run: () =>
        measure(loop(plainEffect((next) => (message) =>
          Effect.gen(function*() {
            return yield* next(message)
          })
        )))
    },
    {
      name: "Effect.fn with spans",
      whose: "peer",
      run: () =>
        measure(loop(plainEffect((next) =>
          Effect.fn("middleware")(function*(message: Delivery) {
            return yield* next(message)
          })
        )))
    }
  ],
  goals: [
    {
      id: "P1",
      text: "8 middlewares, microseconds a message",
      target: 0.2,
      better: "lower",
      measured: (of) => of("millrace").cpu
    },
    {
      id: "P1",
      text: "8 middlewares with work before and after, microseconds a message",
      target: 0.2,
      better: "lower",
      measured: (of) => of("millrace, before and after").cpu
    },
    {
      id: "P1",
      text: "8 middlewares that map errors, microseconds a message",
      target: 0.2,
      better: "lower",
      measured: (of) => of("millrace, typed errors").cpu
    },
    ...([["koa-compose", 4.6], ["Moleculer", 6.8], ["RxJS", 20], ["NestJS microservice", 103]] as const).map(
      ([name, target]) => ({
        id: "P1",
        text: `times cheaper than ${name}`,
        target,
        better: "higher" as const,
        measured: (of: (variant: string) => { readonly cpu: number }) => of(name).cpu / of("millrace").cpu
      })
    )
  ]
}
