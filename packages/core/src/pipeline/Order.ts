/**
 * In which order middlewares stand: what must never be is checked when a pipeline is built, what is wise is data that can be
 * printed and compared with.
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

/**
 * The recommended order, outermost first, for consumers and for HTTP. Of two with one position either may stand outside.
 *
 * No rule that `check` holds to says otherwise; where one says more, it is that one's reason that is told.
 *
 * **Example** (what stands around a handler of requests)
 *
 * ```ts
 * import { Order } from "@millrace/core"
 *
 * const names = Order.recommended.filter(({ where }) => where !== "messages").map(({ name }) => name)
 * console.log(names.slice(0, 5).join(", ")) // => Problem, Correlate, Trace, Log, Metrics
 * ```
 */
export const recommended: ReadonlyArray<Place> = places

/** The recommended order as text, a line for each place: all of it, or what one kind of source has. */
export const toText = (where?: "http" | "messages"): string => {
  const shown = recommended.filter((place) => where === undefined || place.where === "both" || place.where === where)
  const width = Math.max(...shown.map(({ name }) => name.length))
  return shown
    .map(({ because, name, position }) => `${String(position).padStart(2)}  ${name.padEnd(width)}  ${because}`)
    .join("\n")
}

/** Two steps that stand the other way round than is recommended. */
export interface Advice {
  /** What is better outside. */
  readonly outer: string
  /** What is better inside. */
  readonly inner: string
  readonly because: string
  /** All of it as a sentence. */
  readonly sentence: string
}

const byName = new Map(recommended.map((place) => [place.name, place]))

/** The reason of a rule of their own, where one of the two has one. */
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
      // what stands in several places is well where one of them is
      outer.position < inner.position && names.indexOf(outer.name) > names.lastIndexOf(inner.name)
    ).map((inner): Advice => {
      const because = ruled(list, outer.name, inner.name) ?? outer.because
      const sentence = `${inner.name} stands outside ${outer.name}, and is better inside it: ${because}`
      return { outer: outer.name, inner: inner.name, because, sentence }
    })
  )
}

/**
 * Where a pipeline is not in the recommended order: each pair of its steps that stand the other way round, as data. Steps
 * that have no recommended place, a user's own among them, stand well anywhere.
 *
 * **Example** (a limit that counts what it does not name)
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

/** The same steps in the recommended order; what has no place there stays where it is. */
const ordered = (names: ReadonlyArray<string>): ReadonlyArray<string> => {
  const known = names.filter((name) => byName.has(name))
  // stable, so what may stand either way stands as it did
  known.sort((a, b) => byName.get(a)!.position - byName.get(b)!.position)
  return names.map((name) => byName.has(name) ? known.shift()! : name)
}

/**
 * A pipeline beside the recommended order of its steps, outermost first, and a sentence for each pair that stands the other
 * way round: as text, for people. A pipeline whose ways part has a block for each way.
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
