/** The UTC days that keys begin with: a body is written on its day alone, so removing old days races with no writer. */
import { DateTime } from "effect"

/** The UTC day of a Unix time in milliseconds, as `2026-12-01`. */
export const dayOf = (millis: number): string => DateTime.formatIso(DateTime.makeUnsafe(millis)).slice(0, 10)

/** The day of a key. */
export const dayOfKey = (key: string): string => key.slice(0, 10)

/** Whether a name is that of a day. */
export const isDay = (name: string): boolean => /^\d{4}-\d{2}-\d{2}$/.test(name)
