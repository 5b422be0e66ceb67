/**
 * The rule that selects the answers stored under an idempotency key, as data.
 */

/** A status, or a class of statuses. */
export type Status = number | "2xx" | "3xx" | "4xx" | "5xx"

/** The rule that selects stored answers. Any other answer frees the key, and a repeated request runs again. */
export interface Keeps {
  readonly statuses: ReadonlyArray<Status>
  /** Statuses excluded from `statuses`. */
  readonly except: ReadonlyArray<number>
  /** Tags of errors from before the handler began its work; their answers are not stored. */
  readonly before: ReadonlyArray<string>
}

const hundreds: { readonly [name: string]: number } = { "2xx": 200, "3xx": 300, "4xx": 400, "5xx": 500 }

/** The statuses whose answers are stored. */
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
