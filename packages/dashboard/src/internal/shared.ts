/**
 * One computation for all who ask at the same time.
 */
import { Clock, Deferred, Effect } from "effect"

/**
 * Runs an effect at most once at a time, and gives its result to each caller for `fresh` milliseconds after its start. An
 * interrupted caller interrupts nothing.
 */
export const shared = <A, E, R>(effect: Effect.Effect<A, E, R>, fresh: number): Effect.Effect<A, E, R> => {
  let last: { readonly at: number; readonly answer: Deferred.Deferred<A, E> } | undefined
  return Effect.flatMap(Clock.currentTimeMillis, (now) => {
    if (last !== undefined && (!Deferred.isDoneUnsafe(last.answer) || now - last.at < fresh)) {
      return Deferred.await(last.answer)
    }
    const answer = Deferred.makeUnsafe<A, E>()
    last = { at: now, answer }
    return Effect.andThen(Effect.forkDetach(Deferred.into(effect, answer)), Deferred.await(answer))
  })
}
