/**
 * Order of middlewares. Building a pipeline checks the hard rules; the recommended order is data to print and compare with.
 */
import type { Description, Rule } from "./Description.ts"
import * as Descriptions from "./Description.ts"
import { type Place, places } from "./places.ts"

export type { Place } from "./places.ts"

/** A pipeline in a wrong order; the message names both middlewares and says why. */
export class OrderError extends Error {
  override readonly name = "OrderError"
}

const violation = (list: ReadonlyArray<Description>, at: number, rule: Rule): string | undefined => {
  const own = list[at]!.name
  const isOther = ({ name }: Description) => name === ("inside" in rule ? rule.inside : rule.outside)
  const other = "every" in rule ? list.findLastIndex(isOther) : list.findIndex(isOther)
  if (other < 0) return undefined
  if ("inside" in rule) {
    return at < other ? `${own} must stand inside ${rule.inside}, not outside it: ${rule.because}` : undefined
  }
  return at > other ? `${own} must stand outside ${rule.outside}, not inside it: ${rule.because}` : undefined
}

/** Lists every broken rule of a pipeline, as sentences. Steps hidden inside plain functions are not checked. */
export const violations = (target: object): ReadonlyArray<string> => {
  const found = Descriptions.ways(Descriptions.of(target)).flatMap((list) =>
    list.flatMap((description, at) => (description.order ?? []).flatMap((rule) => violation(list, at, rule) ?? []))
  )
  // a step before a fork is part of every way, so its violations repeat
  return Array.from(new Set(found))
}

/**
 * Refuses a pipeline with a wrong order.
 *
 * @throws OrderError when a rule of one of its middlewares is broken
 */
export const check = (target: object): void => {
  const found = violations(target)
  if (found.length > 0) throw new OrderError(found.join("\n"))
}

/**
 * The recommended order, outermost first, for consumers and for HTTP. Middlewares with the same position may be placed in
 * either order.
 *
 * No rule enforced by `check` contradicts this order. Where a rule covers the same pair, `advise` shows the rule's reason.
 *
 * **Example** (the outermost middlewares around a request handler)
 *
 * ```ts
 * import { Order } from "@millrace/core"
 *
 * const names = Order.recommended.filter(({ where }) => where !== "messages").map(({ name }) => name)
 * console.log(names.slice(0, 5).join(", ")) // => Problem, Correlate, Trace, Log, Metrics
 * ```
 */
export const recommended: ReadonlyArray<Place> = places

/** Prints the recommended order as text, one line per place: all places, or the places of one kind of source. */
export const toText = (where?: "http" | "messages"): string => {
  const shown = recommended.filter((place) => where === undefined || place.where === "both" || place.where === where)
  const width = Math.max(...shown.map(({ name }) => name.length))
  return shown
    .map(({ because, name, position }) => `${String(position).padStart(2)}  ${name.padEnd(width)}  ${because}`)
    .join("\n")
}

/** Two steps in the reverse of the recommended order. */
export interface Advice {
  /** The step that should be outside. */
  readonly outer: string
  /** The step that should be inside. */
  readonly inner: string
  readonly because: string
  /** The whole advice as a sentence. */
  readonly sentence: string
}

const byName = new Map(recommended.map((place) => [place.name, place]))

/** Finds the reason of a middleware's own order rule for this pair, if there is one. */
const ruled = (list: ReadonlyArray<Description>, outer: string, inner: string): string | undefined =>
  list.flatMap(({ name, order }) =>
    (order ?? []).filter((rule) =>
      "inside" in rule ? name === inner && rule.inside === outer : name === outer && rule.outside === inner
    )
  )[0]?.because

const compare = (list: ReadonlyArray<Description>): ReadonlyArray<Advice> => {
  const names = list.map(({ name }) => name)
  const known = recommended.filter(({ name }) => names.includes(name))
  return known.flatMap((outer) =>
    known.filter((inner) =>
      // a step used in several places is fine if one of the places is
      outer.position < inner.position && names.indexOf(outer.name) > names.lastIndexOf(inner.name)
    ).map((inner): Advice => {
      const because = ruled(list, outer.name, inner.name) ?? outer.because
      const sentence = `${inner.name} stands outside ${outer.name}, and is better inside it: ${because}`
      return { outer: outer.name, inner: inner.name, because, sentence }
    })
  )
}

/**
 * Lists each pair of steps in the reverse of the recommended order, as data. Steps without a recommended place, such as user
 * code, are accepted anywhere.
 *
 * **Example** (a rate limit inside the trace)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { type Envelope, Order, RateLimit, Trace } from "@millrace/core"
 *
 * const handler = (_message: Envelope) => Effect.void
 *
 * const [advice] = Order.advise(pipe(handler, Trace.middleware(), RateLimit.middleware({ limit: 50 })))
 * console.log(advice?.outer, advice?.inner) // => Trace RateLimit
 * console.log(Order.advise(pipe(handler, RateLimit.middleware({ limit: 50 }), Trace.middleware())).length) // => 0
 * ```
 */
export const advise = (target: object): ReadonlyArray<Advice> => {
  const found = Descriptions.ways(Descriptions.of(target)).flatMap(compare)
  return Array.from(new Map(found.map((advice) => [advice.sentence, advice])).values())
}

/** Sorts the steps into the recommended order; steps without a recommended place keep their position. */
const ordered = (names: ReadonlyArray<string>): ReadonlyArray<string> => {
  const known = names.filter((name) => byName.has(name))
  // the sort is stable: steps with equal positions keep their order
  known.sort((a, b) => byName.get(a)!.position - byName.get(b)!.position)
  return names.map((name) => byName.has(name) ? known.shift()! : name)
}

/**
 * Prints a pipeline beside the recommended order of its steps, outermost first, with a sentence for each reversed pair: text
 * for people. A pipeline with routes has a block for each way.
 *
 * **Example** (a handler whose log lines have no id)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { type Envelope, Log, Order, Trace } from "@millrace/core"
 *
 * const ship = (_message: Envelope) => Effect.void
 * console.log(Order.explain(pipe(ship, Trace.middleware(), Log.middleware())))
 * // => here   recommended
 * //    Log    Trace
 * //    Trace  Log
 * //    ship   ship
 * //    - Log stands outside Trace, and is better inside it: what stands inside is part of the span, and its lines and rows carry its id
 * ```
 */
export const explain = (target: object): string =>
  Descriptions.ways(Descriptions.of(target)).map((list) => {
    const names = list.map(({ name }) => name)
    const better = ordered(names)
    const width = Math.max(4, ...names.map((name) => name.length))
    const rows = names.map((name, i) => `${name.padEnd(width)}  ${better[i]}`)
    const found = compare(list)
    const said = found.length === 0
      ? ["- every step stands where it is recommended"]
      : found.map(({ sentence }) => `- ${sentence}`)
    return [`${"here".padEnd(width)}  recommended`, ...rows, ...said].join("\n")
  }).join("\n\n")
