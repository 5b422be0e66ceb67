/**
 * What observers of a consumer are told: an audit and metrics, which stand around the handler.
 */
import type * as Core from "@millrace/core"
import type { Simulation } from "@millrace/testing"
import { Context, Effect, Exit, type Scope, Tracer } from "effect"
import type { Book } from "./Book.ts"
import type { Consumer, Run } from "./records.ts"
import type { Subject } from "./settings.ts"

/** What an audit calls outcomes. */
export const statuses: { readonly [Tag in Core.Outcome.Outcome["_tag"]]: Core.Audit.Status } = {
  Ack: "done",
  Retry: "retried",
  DeadLetter: "deadLettered",
  Reject: "rejected",
  Release: "released"
}

/** The services of the observers: their rows go to the book. */
export type Services = Core.Audit.Store | Core.Metrics.Registry

/** The services of one consumer's observers. */
export const services = (
  { Audit, Metrics }: Subject,
  book: Book,
  consumer: Consumer
): Effect.Effect<Context.Context<Services>, never, Scope.Scope> =>
  Effect.map(Metrics.make(), (registry) => {
    consumer.statistics = () => Effect.runSync(registry.snapshot)
    return Context.make(
      Audit.Store,
      Audit.Store.of({
        append: (entry) => {
          book.row(entry)
          return Exit.void
        },
        query: () => Effect.succeed({ rows: [], next: undefined }),
        count: () => Effect.succeed(0),
        prune: () => Effect.succeed(0)
      })
    ).pipe(Context.add(Metrics.Registry, registry))
  })

/** A tracer that throws when a span begins, or makes spans of which some methods throw. */
export const brokenTracer = ({ chance }: Simulation.World, book: Book): Tracer.Tracer => {
  const fails = (): never => {
    book.note("lost span")
    throw new Error("the tracer throws")
  }
  return Tracer.make({
    span: (options) => {
      if (chance(0.2)) fails()
      const span = new Tracer.NativeSpan(options)
      for (const method of ["attribute", "event", "end"] as const) if (chance(0.3)) span[method] = fails
      return span
    }
  })
}

/** What metrics of a consumer have counted, after its end. */
export const counted = (book: Book, { name, statistics }: Consumer, runs: ReadonlyArray<Run>): void => {
  const [counts] = statistics?.() ?? []
  if (statistics === undefined || runs.length === 0) return
  const { done = 0, failed = 0, inFlight = 0, interrupted = 0, rejected = 0, retried = 0, started = 0 } = counts ?? {}
  const acknowledged = runs.filter(({ outcome }) => outcome?._tag === "Ack").length
  // a handler may be interrupted after it has ended and before the engine hears of it
  const interruptions = runs.filter(({ outcome }) => outcome?._tag === "Release").length
  book.check(
    "told",
    inFlight === 0 && started === runs.length && done >= acknowledged && done <= acknowledged + interruptions &&
      started === done + failed + interrupted + rejected + retried,
    () =>
      `the metrics of ${name} count ${started} calls, ${inFlight} in flight, ${done} done, of ${runs.length} and ${acknowledged}`
  )
}
