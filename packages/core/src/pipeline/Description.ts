/**
 * What a pipeline says of itself: kept on the composed function, read when it is built, and free while messages flow.
 */

import type { Pattern } from "../message/Address.ts"
import type { Content } from "../message/Channel.ts"

/** Where on a message's way a middleware stands. */
export type Stage = "receive" | "parse" | "filter" | "consume" | "decode" | "handle" | "publish" | "after"

/**
 * An order that a middleware asks for. `inside: "Auth"` says: this middleware must stand inside Auth. `outside: "Auth"` says:
 * this middleware must stand outside Auth. Where the pipeline has no Auth, nothing is asked. Of several it is the outermost that
 * counts, and with `every` each of them. `because` ends the sentence of the refusal.
 *
 * **Example** (this middleware must stand inside Auth, and does not)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Auth, type Envelope, Middleware, Order } from "@millrace/core"
 *
 * const greet = Middleware.make()(
 *   { name: "Greet", stage: "consume", order: [{ inside: "Auth", because: "it greets the principal" }] },
 *   (next) => next
 * )
 * const handler = (_message: Envelope) => Effect.void
 *
 * console.log(Order.violations(pipe(handler, greet, Auth.middleware())).length) // => 0
 * console.log(Order.violations(pipe(handler, Auth.middleware(), greet))[0])
 * // => Greet must stand inside Auth, not outside it: it greets the principal
 * ```
 */
export type Rule =
  | { readonly inside: string; readonly every?: true; readonly because: string }
  | { readonly outside: string; readonly because: string }

/** How a middleware of a publisher acts on the messages of one `publishAll`. */
export type InBatch = "once" | "each"

/** A channel that a step publishes to. */
export interface Sent {
  readonly name: string
  readonly pattern: Pattern | undefined
  readonly content: Content<never>
}

/** One middleware, or the handler, as a pipeline shows it. */
export interface Description {
  readonly name: string
  readonly stage: Stage
  /** Options worth showing; never a secret. */
  readonly shows?: Readonly<Record<string, unknown>> | undefined
  readonly order?: ReadonlyArray<Rule> | undefined
  /**
   * How a middleware of a publisher acts on the messages of one `publishAll`.
   *
   * - `each`: it runs for each message, and all messages are inside side by side: `next` of each ends when the batch ends, with
   *   the result of the batch. Messages that it passes to `next` again after a failure are published as one batch again.
   * - `once`: it runs once for the whole batch, with the last message, and each call of `next` publishes the batch. For what
   *   holds something while `next` runs (a place, a connection, a time limit) or counts calls of the broker.
   * - default: as `each`. But where it lets no further message in for a second while others are inside, because those hold what
   *   that message waits for, the middleware starts over, one message after the other: `next` of all but the last then succeeds
   *   when the message is taken into the batch, and only `next` of the last ends as the batch does. A warning tells of it.
   */
  readonly inBatch?: InBatch | undefined
  /** Of a step where ways part: the pipelines of which one is taken, by name, each outermost first. It is the last step. */
  readonly routes?: Readonly<Record<string, ReadonlyArray<Description>>> | undefined
  /** Of a step that answers whoever asks: what the answer is, for documents. */
  readonly replies?: Content<never> | undefined
  /** Of a step that publishes: the channels that it publishes to, for documents. */
  readonly sends?: ReadonlyArray<Sent> | undefined
  /** Of a handler that takes messages together: how many, and how many milliseconds it waits for them. */
  readonly batch?: { readonly size: number; readonly wait: number } | undefined
}

/** Where a middleware carries its descriptions. */
export const DescriptionId = "~millrace/Description"

/** Carries descriptions, outermost first. */
export interface Described {
  readonly [DescriptionId]?: ReadonlyArray<Description>
}

/** A function of user code: whatever is inside it cannot be seen. */
export const plain = (name: string): Description => ({ name: name || "anonymous", stage: "handle" })

/** Marks `target` with descriptions, outermost first. */
export const describe = <F extends (...args: never) => unknown>(
  target: F,
  descriptions: ReadonlyArray<Description>
): F & Described => Object.defineProperty(target, DescriptionId, { value: descriptions })

/** The descriptions of a handler or middleware, outermost first. A function without marks is one plain step. */
export const of = (target: object): ReadonlyArray<Description> => {
  // any function may carry the mark, and has a name
  const marked = target as Described & { readonly name?: string }
  return marked[DescriptionId] ?? [plain(marked.name ?? "")]
}

/** Whether a function was composed by this library, so that what is inside it is known. */
export const isDescribed = (target: object): boolean => DescriptionId in target

const show = (value: unknown): string =>
  typeof value === "string" ? line(value) : Array.isArray(value) ? value.map(show).join(", ") : line(String(value))

/** A name or a value may be anything; a drawing has one line for each step. */
const line = (text: string): string => text.replaceAll(/\s+/g, " ")

const options = (description: Description): string => {
  const entries = Object.entries(description.shows ?? {}).filter(([, value]) => value !== undefined)
  return entries.length === 0 ? "" : entries.map(([name, value]) => `${name}: ${show(value)}`).join(", ")
}

/** Every way through a pipeline, each a list of steps, outermost first. */
export const ways = (list: ReadonlyArray<Description>): ReadonlyArray<ReadonlyArray<Description>> => {
  const routes = list.at(-1)?.routes
  return routes === undefined ? [list] : Object.values(routes).flatMap((route) => ways([...list, ...route]))
}

const write = (list: ReadonlyArray<Description>, depth: number, lines: Array<string>): void => {
  for (const [i, description] of list.entries()) {
    const at = depth + i
    const shown = options(description)
    lines.push(
      `${"  ".repeat(at)}${line(description.name)}${shown === "" ? "" : ` (${shown})`}  [${description.stage}]`
    )
    for (const [name, route] of Object.entries(description.routes ?? {})) {
      lines.push(`${"  ".repeat(at + 1)}${line(name)}:`)
      write(route, at + 2, lines)
    }
  }
}

/** The pipeline as indented text, outermost first: the way of a message on its way in. */
export const toText = (target: object): string => {
  const lines: Array<string> = []
  write(of(target), 0, lines)
  return lines.join("\n")
}

/** The pipeline as a Mermaid flow chart. */
export const toMermaid = (target: object): string => {
  // "#" begins Mermaid's own escapes, so it goes first
  const escape = (text: string) =>
    line(text).replaceAll("#", "#35;").replaceAll("\"", "#quot;").replaceAll("<", "#lt;").replaceAll(">", "#gt;")
  const nodes: Array<string> = []
  const arrows: Array<string> = []
  const draw = (list: ReadonlyArray<Description>, from: number | undefined, by: string | undefined): void => {
    for (const description of list) {
      const own = nodes.length
      const shown = options(description)
      nodes.push(
        `  n${own}["${escape(description.name)}${shown === "" ? "" : `<br/>${escape(shown)}`}"]:::${description.stage}`
      )
      if (from !== undefined) arrows.push(`  n${from} -->${by === undefined ? "" : `|"${escape(by)}"|`} n${own}`)
      from = own
      by = undefined
      for (const [name, route] of Object.entries(description.routes ?? {})) draw(route, own, name)
    }
  }
  draw(of(target), undefined, undefined)
  return ["flowchart TB", ...nodes, ...arrows].join("\n")
}
