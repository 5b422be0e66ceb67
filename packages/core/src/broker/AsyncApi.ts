/**
 * Documents the channels that a program consumes and publishes, in AsyncAPI 3. The document is made of the program's
 * subscriptions, publishers and requests, so it cannot differ from them.
 */
import { Schema } from "effect"
import type { Pattern } from "../message/Address.ts"
import type { Content } from "../message/Channel.ts"
import type { PayloadCodec } from "../message/PayloadCodec.ts"
import * as Description from "../pipeline/Description.ts"
import type { Subscription } from "./Subscription.ts"

/** JSON. */
export type Json = null | boolean | number | string | ReadonlyArray<Json> | { readonly [name: string]: Json }

/** An AsyncAPI 3 document, ready for `JSON.stringify`. */
export interface Document {
  readonly asyncapi: "3.0.0"
  readonly info: { readonly title: string; readonly version: string }
  readonly channels: { readonly [id: string]: Json }
  readonly operations: { readonly [id: string]: Json }
  readonly components: { readonly schemas: { readonly [name: string]: Json } }
}

/** Ids may hold letters, digits, `.`, `-` and `_` only. */
const idOf = (name: string): string => name.replaceAll(/[^A-Za-z0-9_.-]/g, "_")

/** Like `idOf`, but keeps names apart that differ only in the characters that `idOf` replaces. */
const exactId = (name: string): string =>
  name.replaceAll(/[^A-Za-z0-9_.-]/g, (character) => `_${character.codePointAt(0)!.toString(16)}`)

/** Counts the occurrences of each text. */
const countOf = (all: Iterable<string>): ReadonlyMap<string, number> => {
  const counts = new Map<string, number>()
  for (const each of all) counts.set(each, (counts.get(each) ?? 0) + 1)
  return counts
}

/** Returns an id for each name, independent of their order: the names that share an id get their exact ids. */
const idsOf = (names: ReadonlySet<string>): ReadonlyMap<string, string> => {
  const counts = countOf(Array.from(names, idOf))
  const ids = new Map<string, string>()
  const taken = new Set<string>()
  for (const name of [...names].sort()) {
    // a name that is a valid id keeps it
    let id = idOf(name) === name || counts.get(idOf(name)) === 1 ? idOf(name) : exactId(name)
    while (taken.has(id)) id += "_"
    taken.add(id)
    ids.set(name, id)
  }
  return ids
}

const schemaFormat = "application/schema+json;version=draft-2020-12"

/** Points the references of one schema to the document's own schemas, named apart by `prefix`. */
const moved = (value: unknown, prefix: string): Json => {
  if (Array.isArray(value)) return value.map((each) => moved(each, prefix))
  if (typeof value !== "object" || value === null) return value as Json
  return Object.fromEntries(
    Object.entries(value).map(([name, each]) => [
      name,
      name === "$ref" && typeof each === "string"
        ? each.replace(/^#\/\$defs\/([^/]+)/, `#/components/schemas/${prefix}.$1/schema`)
        : moved(each, prefix)
    ])
  )
}

const messageOf = (
  content: Content<never>,
  prefix: string,
  schemas: Record<string, Json>
): { readonly [name: string]: Json } => {
  const { codec } = content
  const typed = codec?.contentType === undefined ? {} : { contentType: codec.contentType }
  if (content._tag !== "schema") return typed
  const document = Schema.toJsonSchemaDocument(content.schema)
  for (const [name, definition] of Object.entries(document.definitions)) {
    schemas[`${prefix}.${name}`] = { schemaFormat, schema: moved(definition, prefix) }
  }
  return { ...typed, payload: { schemaFormat, schema: moved(document.schema, prefix) } }
}

const reaches = { segment: "One segment.", rest: "All that is left of the name." }

const parametersOf = (pattern: Pattern | undefined): { readonly parameters?: Json } =>
  pattern === undefined ? {} : {
    parameters: Object.fromEntries(
      pattern.parts.flatMap((part) =>
        typeof part === "string" ? [] : [[part.name, { description: reaches[part.reach] }]]
      )
    )
  }

interface Listed {
  readonly entry: { readonly [name: string]: Json }
  readonly messages: Record<string, Json>
}

/** The channels of a document, each with the messages of all its readers and writers. */
class Channels {
  readonly schemas: Record<string, Json> = {}
  readonly #ids: ReadonlyMap<string, string>
  readonly #taken: ReadonlySet<string>
  readonly #listed = new Map<string, Listed>()

  constructor(names: ReadonlySet<string>) {
    this.#ids = idsOf(names)
    this.#taken = new Set(this.#ids.values())
  }

  idOf(name: string): string {
    return this.#ids.get(name)!
  }

  /** Adds a channel with a message; returns the references for an operation on it. */
  add({ content, name, pattern }: Description.Sent): { readonly [name: string]: Json } {
    return this.#add(this.idOf(name), { address: name, ...parametersOf(pattern) }, content)
  }

  /** Adds the channel of answers to requests, whose address is in the request. */
  answers(name: string, content: Content<never>): { readonly [name: string]: Json } {
    let id = `${this.idOf(name)}.answers`
    while (this.#taken.has(id)) id += "_"
    return this.#add(id, { address: null }, content)
  }

  #add(id: string, entry: Listed["entry"], content: Content<never>): { readonly [name: string]: Json } {
    const listed: Listed = this.#listed.get(id) ?? { entry, messages: {} }
    this.#listed.set(id, listed)
    const count = Object.keys(listed.messages).length
    const message = messageOf(content, count === 0 ? id : `${id}.message${count + 1}`, this.schemas)
    // the same schema under another name is the same message
    const text = (other: string) => JSON.stringify(messageOf(content, other, {}))
    const known = Object.keys(listed.messages).find((name, i) =>
      JSON.stringify(listed.messages[name]) === text(i === 0 ? id : `${id}.${name}`)
    )
    const name = known ?? (count === 0 ? "message" : `message${count + 1}`)
    listed.messages[name] ??= message
    return {
      channel: { $ref: `#/channels/${id}` },
      messages: [{ $ref: `#/channels/${id}/messages/${name}` }]
    }
  }

  toJson(): { readonly [id: string]: Json } {
    return Object.fromEntries(
      Array.from(this.#listed, ([id, { entry, messages }]) => [id, { ...entry, messages }])
    )
  }
}

/** Returns every step of a pipeline, those of its routes included. */
const stepsOf = (target: Description.Described): ReadonlyArray<Description.Description> => {
  const all = (list: ReadonlyArray<Description.Description>): ReadonlyArray<Description.Description> =>
    list.flatMap((step) => [step, ...Object.values(step.routes ?? {}).flatMap(all)])
  return all(target[Description.DescriptionId] ?? [])
}

/**
 * Names each subscription by its name alone if unique, otherwise with its channel, otherwise with its group too, independent
 * of their order.
 */
const operationIds = (
  subscriptions: ReadonlyArray<Subscription<unknown, unknown>>,
  channels: Channels
): ReadonlyArray<string> => {
  const named = subscriptions.map(({ channel, consumer: { group }, name }, i) => {
    const place = `${idOf(name)}.${channels.idOf(channel)}`
    const forms = [idOf(name), place, `${place}.${idOf(group)}`] as const
    return { i, forms, key: JSON.stringify([name, channel, group]) }
  }).sort((a, b) => a.key < b.key ? -1 : 1)
  const counts = [0, 1].map((at) => countOf(named.map(({ forms }) => forms[at]!)))
  const taken = new Set<string>()
  const ids: Array<string> = []
  for (const { forms, i } of named) {
    let id = forms.find((form, at) => counts[at]?.get(form) === 1 && !taken.has(form)) ?? forms[2]
    while (taken.has(id)) id += "_"
    taken.add(id)
    ids[i] = id
  }
  return ids
}

/** Options of `document`. */
export interface Options {
  readonly title: string
  readonly version: string
  readonly subscriptions: ReadonlyArray<Subscription<unknown, unknown>>
  /** The publishers that a program uses beside the `Publish` middlewares of its subscriptions. Default: none. */
  readonly publishers?: ReadonlyArray<Description.Described> | undefined
  /** The requests that a program makes by clients. Default: none. */
  readonly requests?: ReadonlyArray<Asked> | undefined
}

/** The parts of a `Request` that a document shows. */
export interface Asked {
  readonly channel: Pick<Description.Sent, "name" | "pattern"> & { readonly content: unknown }
  readonly reply: unknown
  readonly codec: PayloadCodec<unknown>
}

/**
 * Documents a program: each channel that it reads or writes, with the schemas of its messages; a `receive` operation for each
 * subscription, described by its pipeline, with its answers where it answers requests; and a `send` operation for each channel
 * that a `Publish` middleware, a publisher or a request writes.
 *
 * Ids do not depend on the order of subscriptions. An id is the name, with `_` for invalid characters; channels that would
 * share an id get the codes of those characters in theirs, and subscriptions of one name get their channel's id and their
 * group in theirs. Operations that send are `send.CHANNEL` and `request.CHANNEL`.
 *
 * Source: AsyncAPI 3.0.0; payloads are JSON Schema 2020-12 as Schema writes them.
 *
 * **Example** (a channel to read, and a channel to write)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { AsyncApi, Channel, Decode, type Message, Publish, Subscription } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String })
 * const Orders = Channel.make("orders", { payload: Order })
 * const Placed = Channel.make("orders.placed", { payload: Order })
 * const handler = pipe(
 *   ({ payload }: Message<typeof Order.Type>) => Effect.succeed(payload),
 *   Publish.middleware(Placed),
 *   Decode.middleware(Orders)
 * )
 * const orders = Subscription.make(Orders, { group: "billing", name: "placeOrder" }, handler)
 * const document = AsyncApi.document({ title: "Billing", version: "1.0.0", subscriptions: [orders] })
 * console.log(Object.keys(document.channels), Object.keys(document.operations))
 * // => [ 'orders', 'orders.placed' ] [ 'placeOrder', 'send.orders.placed' ]
 * ```
 *
 * @category documents
 */
export const document = (options: Options): Document => {
  const { publishers = [], requests = [], subscriptions } = options
  const sends = [...subscriptions, ...publishers].flatMap(stepsOf).flatMap((step) => step.sends ?? [])
  const channels = new Channels(
    new Set([
      ...subscriptions.map(({ channel }) => channel),
      ...sends.map(({ name }) => name),
      ...requests.map(({ channel }) => channel.name)
    ])
  )
  const operations: Record<string, Json> = {}
  const ids = operationIds(subscriptions, channels)
  subscriptions.forEach((subscription, i) => {
    const { channel, consumer: { group, pattern }, content, name } = subscription
    const place = channels.add({ name: channel, pattern, content })
    const replies = stepsOf(subscription).find((step) => step.replies !== undefined)?.replies
    operations[ids[i]!] = {
      action: "receive",
      ...(replies === undefined ? undefined : { reply: replyOf(channels.answers(channel, replies)) }),
      ...place,
      title: name,
      summary: `Consumer group ${group}`,
      description: `\`\`\`text\n${Description.toText(subscription)}\n\`\`\``
    }
  })
  const send = (id: string, place: { readonly [name: string]: Json }, more: { readonly [name: string]: Json } = {}) => {
    const before = operations[id] as { readonly messages: ReadonlyArray<Json> } | undefined
    const messages = new Map([...before?.messages ?? [], ...place["messages"] as ReadonlyArray<Json>]
      .map((each) => [JSON.stringify(each), each]))
    operations[id] = { action: "send", ...more, ...place, messages: [...messages.values()] }
  }
  for (const place of sends) send(free(ids, `send.${channels.idOf(place.name)}`), channels.add(place))
  for (const { channel, codec, reply } of requests) {
    const { content, name, pattern } = channel
    // read for their schemas only
    const answers = { _tag: "schema", schema: reply, codec } as Content<never>
    send(
      free(ids, `request.${channels.idOf(name)}`),
      channels.add({ name, pattern, content: content as Content<never> }),
      { reply: replyOf(channels.answers(name, answers)) }
    )
  }
  return {
    asyncapi: "3.0.0",
    info: { title: options.title, version: options.version },
    channels: channels.toJson(),
    operations,
    components: { schemas: channels.schemas }
  }
}

/** Returns an id that no subscription has. */
const free = (ids: ReadonlyArray<string>, id: string): string => ids.includes(id) ? free(ids, `${id}_`) : id

const replyOf = (place: { readonly [name: string]: Json }): Json => ({
  address: { location: "$message.header#/reply-to" },
  ...place
})
