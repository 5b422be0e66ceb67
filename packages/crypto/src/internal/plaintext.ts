/** The option for bodies and values that are not encrypted. */

/** Refused, or accepted until a date while publishers change over. */
export type Plaintext = "refuse" | { readonly acceptUntil: Date }

/** The end of acceptance in Unix milliseconds; -Infinity for never. */
export const endOf = (module: string, plaintext: Plaintext): number => {
  if (plaintext === "refuse") return -Infinity
  const end = plaintext.acceptUntil.getTime()
  if (!Number.isFinite(end)) {
    throw new RangeError(`${module}: plaintext.acceptUntil must be a date, got an invalid one`)
  }
  return end
}
