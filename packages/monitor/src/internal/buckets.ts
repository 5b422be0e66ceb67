/**
 * Counts over time: buckets of 15 seconds, of minutes and of hours, each a list of pairs (number of the bucket, count) in the
 * order of time, so that hours without errors cost nothing.
 */

/** The counts of one series. */
export interface Buckets {
  /** Since the state began. */
  total: number
  readonly slots: Array<number>
  readonly minutes: Array<number>
  readonly hours: Array<number>
}

/** Milliseconds of each kind of bucket. */
export const widths = { slots: 15_000, minutes: 60_000, hours: 3_600_000 } as const

/** One kind of bucket. */
export type Width = keyof typeof widths

/** The number of buckets that a series keeps: 15 minutes, a day, a week for the series of all errors; else no minutes, a day. */
export const kept = {
  wide: { slots: 60, minutes: 1_440, hours: 168 },
  narrow: { slots: 60, minutes: 0, hours: 24 }
} as const

/** Makes an empty series. */
export const empty = (): Buckets => ({ total: 0, slots: [], minutes: [], hours: [] })

const addTo = (list: Array<number>, bucket: number, count: number, most: number): void => {
  let at = list.length
  if (at > 0 && list[at - 2]! >= bucket) {
    while (at > 0 && list[at - 2]! > bucket) at -= 2
    if (at > 0 && list[at - 2] === bucket) {
      list[at - 1]! += count
      return
    }
  }
  if (at === list.length) list.push(bucket, count)
  else if (list.length > 0 && bucket > list.at(-2)! - most) list.splice(at, 0, bucket, count)
  const oldest = list.at(-2)! - most
  let gone = 0
  while (list[gone]! <= oldest) gone += 2
  if (gone > 0) list.splice(0, gone)
}

/** Adds `count` at a time. */
export const add = (series: Buckets, at: number, count: number, isWide: boolean): void => {
  const most = isWide ? kept.wide : kept.narrow
  series.total += count
  addTo(series.slots, Math.floor(at / widths.slots), count, most.slots)
  if (isWide) addTo(series.minutes, Math.floor(at / widths.minutes), count, most.minutes)
  addTo(series.hours, Math.floor(at / widths.hours), count, most.hours)
}

/** Adds all counts of another series. */
export const merge = (into: Buckets, from: Buckets, isWide: boolean): void => {
  const most = isWide ? kept.wide : kept.narrow
  into.total += from.total
  for (const width of ["slots", "minutes", "hours"] as const) {
    for (let i = 0; i < from[width].length; i += 2) {
      addTo(into[width], from[width][i]!, from[width][i + 1]!, most[width])
    }
  }
}

/** Chooses the buckets that measure a window best: 15 seconds up to 15 minutes, minutes up to a day where kept, else hours. */
export const widthOf = (window: number, isWide: boolean): Width =>
  window <= kept.wide.slots * widths.slots
    ? "slots"
    : isWide && window <= kept.wide.minutes * widths.minutes
    ? "minutes"
    : "hours"

/** Sums the buckets that overlap with the time after `from` up to `to`. */
export const sum = (series: Buckets, width: Width, from: number, to: number): number => {
  const list = series[width]
  const [first, last] = [from / widths[width] - 1, to / widths[width]]
  let total = 0
  for (let at = list.length - 2; at >= 0 && list[at]! > first; at -= 2) if (list[at]! <= last) total += list[at + 1]!
  return total
}

/** Copies a series. */
export const copy = (series: Buckets): Buckets => ({
  total: series.total,
  slots: series.slots.slice(),
  minutes: series.minutes.slice(),
  hours: series.hours.slice()
})
