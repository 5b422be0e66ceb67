/**
 * Failures of observers. A logger, a tracer or an option's function that throws loses its line or span, never the message.
 */
import { Cause, Effect } from "effect"
import { messageOf, tagOf } from "../message/Failure.ts"

const told = new Set<string>()

/** Reports a failed observer on standard error, once for each observer of this process. Never throws. */
export const tell = (observer: string, error: unknown): void => {
  if (told.has(observer)) return
  told.add(observer)
  const said = messageOf(error, 256)
  try {
    // loggers may be the cause of the failure
    // @effect-diagnostics-next-line globalConsole:off
    console.error(
      `Millrace: ${observer} failed and lost what it had to show; messages are not affected. It is not said again. ${
        tagOf(error)
      }${said === "" ? "" : `: ${said}`}`
    )
  } catch {
    // there is no other place to report to
  }
}

/** Returns the result of `make`, or undefined if `make` throws; the throw is reported once. */
export const attempt = <A>(observer: string, make: () => A): A | undefined => {
  try {
    return make()
  } catch (defect) {
    tell(observer, defect)
    return undefined
  }
}

/** Runs an effect that only observes, such as a log line: errors and defects are reported once, and reach no message. */
export const quietly = (observer: string, effect: Effect.Effect<unknown>): Effect.Effect<void> =>
  Effect.matchCauseEager(effect, {
    onSuccess: () => undefined,
    onFailure: (cause) => tell(observer, Cause.squash(cause))
  })
