/**
 * Which answers are kept under an idempotency key, as data.
 */

/** A status, or all of a hundred. */
export type Status = number | "2xx" | "3xx" | "4xx" | "5xx"

/** Which answers are kept; after any other the key is free, and the request that comes again runs again. */
export interface Keeps {
  readonly statuses: ReadonlyArray<Status>
  /** Of those statuses, the ones that are not kept. */
  readonly except: ReadonlyArray<number>
  /** Tags of errors that came before the work was begun; their answers are not kept. */
  readonly before: ReadonlyArray<string>
}

const hundreds: { readonly [name: string]: number } = { "2xx": 200, "3xx": 300, "4xx": 400, "5xx": 500 }

/** The statuses that are kept. */
export const statusesOf = ({ except, statuses }: Keeps): ReadonlySet<number> => {
  const all = new Set<number>()
  for (const each of statuses) {
    const from = typeof each === "number" ? each : hundreds[each]
    if (from === undefined || !Number.isInteger(from) || from < 200 || from > 599) {
      throw new RangeError(
        `IdempotencyKey: keeps.statuses must hold 200 to 599 or 2xx to 5xx, got ${JSON.stringify(each)}`
      )
    }
    for (let i = 0; i < (typeof each === "number" ? 1 : 100); i++) all.add(from + i)
  }
  for (const each of except) all.delete(each)
  return all
}
