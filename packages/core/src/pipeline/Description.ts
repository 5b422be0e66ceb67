/**
 * Descriptions of a pipeline: stored on the composed function, read when the pipeline is built, free while messages flow.
 */

import type { Pattern } from "../message/Address.ts"
import type { Content } from "../message/Channel.ts"

/** The stage of a middleware on a message's way. */
export type Stage = "receive" | "parse" | "filter" | "consume" | "decode" | "handle" | "publish" | "after"

/**
 * An order rule of a middleware. `inside: "Auth"`: the middleware must be placed inside Auth. `outside: "Auth"`: the middleware
 * must be placed outside Auth. A pipeline without Auth satisfies the rule. If the pipeline has several Auths, the outermost
 * counts, and with `every` each of them. `because` ends the sentence of the refusal.
 *
 * **Example** (a middleware that must be placed inside Auth, and is not)
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

/** How a publish middleware acts on the messages of one `publishAll`. */
export type InBatch = "once" | "each"

/** A channel to which a step publishes. */
export interface Sent {
  readonly name: string
  readonly pattern: Pattern | undefined
  readonly content: Content<never>
}

/** One middleware, or the handler, as shown by a pipeline. */
export interface Description {
  readonly name: string
  readonly stage: Stage
  /** Options worth showing; never a secret. */
  readonly shows?: Readonly<Record<string, unknown>> | undefined
  readonly order?: ReadonlyArray<Rule> | undefined
  /**
   * How a publish middleware acts on the messages of one `publishAll`.
   *
   * - `each`: the middleware runs for each message, and all messages are inside concurrently: `next` of each ends when the batch
   *   ends, with the result of the batch. Messages passed to `next` again after a failure are published as one batch again.
   * - `once`: the middleware runs once for the whole batch, with the last message, and each call of `next` publishes the batch.
   *   For middlewares that hold a resource while `next` runs (a place, a connection, a time limit) or count broker calls.
   * - default: as `each`. But if the middleware lets no further message in for a second while others are inside, because those
   *   hold a resource that the message waits for, it starts over, one message after the other: `next` of all but the last
   *   succeeds as soon as the message joins the batch, and only `next` of the last ends with the batch. A warning tells so.
   */
  readonly inBatch?: InBatch | undefined
  /** For a step with routes: the pipeline of each route by name, outermost first. Such a step is the last. */
  readonly routes?: Readonly<Record<string, ReadonlyArray<Description>>> | undefined
  /** For a step that replies to the requester: the content of the reply, for documents. */
  readonly replies?: Content<never> | undefined
  /** For a step that publishes: its target channels, for documents. */
  readonly sends?: ReadonlyArray<Sent> | undefined
  /** For a handler of batches: the batch size, and the time it waits for more messages, in milliseconds. */
  readonly batch?: { readonly size: number; readonly wait: number } | undefined
}

/** The key under which a middleware stores its descriptions. */
export const DescriptionId = "~millrace/Description"

/** Holds descriptions, outermost first. */
export interface Described {
  readonly [DescriptionId]?: ReadonlyArray<Description>
}

/** Describes a function of user code; steps inside the function are invisible. */
export const plain = (name: string): Description => ({ name: name || "anonymous", stage: "handle" })

/** Marks `target` with descriptions, outermost first. */
export const describe = <F extends (...args: never) => unknown>(
  target: F,
  descriptions: ReadonlyArray<Description>
): F & Described => Object.defineProperty(target, DescriptionId, { value: descriptions })

/** Returns the descriptions of a handler or middleware, outermost first. A function without marks is one plain step. */
export const of = (target: object): ReadonlyArray<Description> => {
  // any function may carry the mark, and every function has a name
  const marked = target as Described & { readonly name?: string }
  return marked[DescriptionId] ?? [plain(marked.name ?? "")]
}

/** Tells whether this library composed the function, so that its steps are known. */
export const isDescribed = (target: object): boolean => DescriptionId in target

const show = (value: unknown): string =>
  typeof value === "string" ? line(value) : Array.isArray(value) ? value.map(show).join(", ") : line(String(value))

/** Puts any name or value on one line: a drawing has one line for each step. */
const line = (text: string): string => text.replaceAll(/\s+/g, " ")

const options = (description: Description): string => {
  const entries = Object.entries(description.shows ?? {}).filter(([, value]) => value !== undefined)
  return entries.length === 0 ? "" : entries.map(([name, value]) => `${name}: ${show(value)}`).join(", ")
}

/** Lists every way through a pipeline, each a list of steps, outermost first. */
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

/** Prints the pipeline as indented text, outermost first: the order in which a message passes the steps. */
export const toText = (target: object): string => {
  const lines: Array<string> = []
  write(of(target), 0, lines)
  return lines.join("\n")
}

/** Draws the pipeline as a Mermaid flow chart. */
export const toMermaid = (target: object): string => {
  // "#" begins Mermaid's own escapes, so replace it first
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
