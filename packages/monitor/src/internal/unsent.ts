/**
 * Alerts that were decided and are not yet sent: they are kept in the state, so that another process sends them if this one
 * ends before.
 */
import type { Sending } from "./notifier.ts"
import type { Alert, State } from "./state.ts"

/** The most alerts that are kept; the oldest are given up. */
const most = 100

/** Milliseconds that all attempts of one alert may take, with waits of a minute that receivers ask for. */
export const leaseOf = ({ attempts, timeout }: Sending): number => attempts * (timeout + 60_000) + 60_000

/** Notes alerts in a state in place, and returns those that this process sends now: new ones, and others whose time is over. */
export const claim = (
  state: State,
  alerts: ReadonlyArray<Alert>,
  confirmed: ReadonlyArray<string>,
  now: number,
  lease: number
): ReadonlyArray<Alert> => {
  for (const id of confirmed) state.unsent.delete(id)
  const due: Array<Alert> = []
  for (const [id, { alert, until }] of state.unsent) {
    if (until > now && until <= now + lease) continue
    state.unsent.set(id, { alert, until: now + lease })
    due.push(alert)
  }
  for (const alert of alerts) {
    state.unsent.set(alert.id, { alert, until: now + lease })
    due.push(alert)
  }
  for (const id of state.unsent.keys()) {
    if (state.unsent.size <= most) break
    state.unsent.delete(id)
  }
  return due
}
