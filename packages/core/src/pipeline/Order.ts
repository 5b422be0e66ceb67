/**
 * Orders that types cannot express, checked when a pipeline is built: each rule is data on the middleware that asks for it.
 */
import type { Description, Rule } from "./Description.ts"
import * as Descriptions from "./Description.ts"

/** A pipeline in a wrong order; the message names both middlewares and says why. */
export class OrderError extends Error {
  override readonly name = "OrderError"
}

const violation = (list: ReadonlyArray<Description>, at: number, rule: Rule): string | undefined => {
  const own = list[at]!.name
  const other = list.findIndex((description) => description.name === ("inside" in rule ? rule.inside : rule.outside))
  if (other < 0) return undefined
  if ("inside" in rule) {
    return at < other ? `${own} must stand inside ${rule.inside}, not outside it: ${rule.because}` : undefined
  }
  return at > other ? `${own} must stand outside ${rule.outside}, not inside it: ${rule.because}` : undefined
}

/** Every broken rule of a pipeline, as sentences; those that hidden steps could break are not guessed at. */
export const violations = (target: object): ReadonlyArray<string> => {
  const found = Descriptions.ways(Descriptions.of(target)).flatMap((list) =>
    list.flatMap((description, at) => (description.order ?? []).flatMap((rule) => violation(list, at, rule) ?? []))
  )
  // what stands before a parting is on every way
  return Array.from(new Set(found))
}

/**
 * Refuses a pipeline whose order is wrong.
 *
 * @throws OrderError when a rule of one of its middlewares is broken
 */
export const check = (target: object): void => {
  const found = violations(target)
  if (found.length > 0) throw new OrderError(found.join("\n"))
}
