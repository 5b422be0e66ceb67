/**
 * Compares what was planned for each message with what three witnesses saw of it: the payment provider, the dead letters and
 * the audit trail.
 */
import type { Audit, DeadLetters } from "@millrace/core"
import type { Planned } from "./generator.ts"
import type { Charge } from "./payments.ts"

/** What the witnesses saw, by the id of the message. */
export interface Happened {
  readonly charges: ReadonlyMap<string, Charge>
  readonly letters: ReadonlyMap<string, ReadonlyArray<DeadLetters.DeadLetter>>
  readonly rows: ReadonlyMap<string, ReadonlyArray<Audit.Row>>
}

export interface Difference {
  readonly id: string
  readonly what: string
}

const equal = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((byte, i) => byte === b[i])

const times = (n: number): string => n === 1 ? "once" : `${n} times`

const differences = (planned: Planned, happened: Happened): ReadonlyArray<string> => {
  const { body, fate, id } = planned
  const { calls, charged } = happened.charges.get(id) ?? { calls: 0, charged: 0 }
  const letters = happened.letters.get(id) ?? []
  const rows = happened.rows.get(id) ?? []
  const found: Array<string> = []
  const want = (holds: boolean, what: string) => holds || found.push(what)

  const [charges, dead, status] = fate._tag === "Done" ? [1, 0, "done"] : [0, 1, "deadLettered"]
  want(calls === fate.calls, `its payment was tried ${times(calls)}, not ${times(fate.calls)}`)
  want(charged === charges, `it was charged ${times(charged)}, not ${times(charges)}`)
  want(letters.length === dead, `it is ${times(letters.length)} among the dead letters, not ${times(dead)}`)
  want(rows.length === 1, `it has ${rows.length} audit rows, not 1`)
  for (const row of rows) {
    want(row.status === status, `its audit row says ${row.status}, not ${status}`)
    want(!/\d{4} \d{4} \d{4} \d{4}/.test(row.body ?? ""), "its audit row shows a card number")
  }
  for (const { delivery, errorMessage, errorType } of fate._tag === "Dead" ? letters : []) {
    const reason = `${errorType}: ${errorMessage}`
    const same = fate._tag === "Dead" && errorType === fate.errorType && errorMessage.includes(fate.says)
    want(same, `its dead letter says "${reason}"`)
    want(equal(delivery.raw, body), "its dead letter is not the body that was published")
    for (const row of rows) want(row.errorTag === errorType, `its audit row says ${row.errorTag}, not ${errorType}`)
  }
  return found
}

/** Every difference between plan and witnesses, in the order of publishing; none where all is as planned. */
export const reconcile = (plan: ReadonlyArray<Planned>, happened: Happened): ReadonlyArray<Difference> => {
  const known = new Set(plan.map(({ id }) => id))
  const strangers = [happened.charges, happened.letters, happened.rows].flatMap((seen) =>
    [...seen.keys()].filter((id) => !known.has(id)).map((id) => ({ id, what: "it was never published" }))
  )
  const own = plan.flatMap((planned) => differences(planned, happened).map((what) => ({ id: planned.id, what })))
  return [...own, ...strangers]
}
