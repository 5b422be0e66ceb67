/**
 * The two forms of `Retry-After`, RFC 9110, 10.2.3: seconds, or a date.
 */
import { Duration } from "effect"

/** The longest accepted wait, in milliseconds: a day. */
export const longest = 86_400_000

const names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
const month = names.join("|")
// IMF-fixdate, RFC 850 and asctime: a recipient must accept all three date formats (RFC 9110, 5.6.7)
const fixed = new RegExp(`^[A-Z][a-z]{2}, (\\d{2}) (${month}) (\\d{4}) (\\d{2}):(\\d{2}):(\\d{2}) GMT$`)
const rfc850 = new RegExp(`^[A-Z][a-z]+, (\\d{2})-(${month})-(\\d{2}) (\\d{2}):(\\d{2}):(\\d{2}) GMT$`)
const asctime = new RegExp(`^[A-Z][a-z]{2} (${month}) ([ \\d]\\d) (\\d{2}):(\\d{2}):(\\d{2}) (\\d{4})$`)

interface Parts {
  readonly year: number
  readonly month: string
  readonly day: string
  readonly time: ReadonlyArray<string>
}

const partsOf = (text: string, now: number): Parts | undefined => {
  const imf = fixed.exec(text)
  if (imf !== null) return { year: Number(imf[3]), month: imf[2]!, day: imf[1]!, time: imf.slice(4) }
  const old = rfc850.exec(text)
  if (old !== null) {
    const reader = new Intl.DateTimeFormat("en", { year: "numeric", timeZone: "UTC" })
    const present = Number(reader.format(now))
    const year = present - present % 100 + Number(old[3])
    // a date more than 50 years ahead belongs to the previous century
    return { year: year > present + 50 ? year - 100 : year, month: old[2]!, day: old[1]!, time: old.slice(4) }
  }
  const c = asctime.exec(text)
  return c === null
    ? undefined
    : { year: Number(c[6]), month: c[1]!, day: c[2]!.trim().padStart(2, "0"), time: c.slice(3, 6) }
}

const millisOf = (text: string, now: number): number | undefined => {
  const parts = partsOf(text, now)
  if (parts === undefined) return undefined
  const number = String(names.indexOf(parts.month) + 1).padStart(2, "0")
  // a leap second counts as the next second
  const [hour, minute, second] = parts.time
  const date = `${String(parts.year).padStart(4, "0")}-${number}-${parts.day}T${hour}:${minute}:`
  const at = second === "60" ? Date.parse(`${date}59Z`) + 1000 : Date.parse(`${date}${second}Z`)
  return Number.isNaN(at) ? undefined : at
}

/**
 * Reads the header at the time `now` (Unix milliseconds) and returns the wait from then, from 0 to a day; undefined if the
 * header is neither seconds nor a date.
 */
export const parse = (field: string | undefined, now: number): Duration.Duration | undefined => {
  const text = field?.trim()
  if (text === undefined || text === "") return undefined
  if (/^\d+$/.test(text)) return Duration.millis(Math.min(longest, Number(text) * 1000))
  const at = millisOf(text, now)
  return at === undefined ? undefined : Duration.millis(Math.min(longest, Math.max(0, at - now)))
}

/** Writes the header: whole seconds, at most a day, rounded up so that no client retries early. */
export const format = (wait: Duration.Duration): string =>
  String(Math.ceil(Math.min(longest, Math.max(0, Duration.toMillis(wait))) / 1000))
