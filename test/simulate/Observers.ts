/**
 * What observers of a consumer are told: an audit and metrics, which stand around the handler.
 */
import type * as Core from "@millrace/core"
import { Context, Effect, Exit, type Scope } from "effect"
import type { Book } from "./Book.ts"
import type { Consumer } from "./records.ts"
import type { Subject } from "./settings.ts"

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
