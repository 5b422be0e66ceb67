/**
 * What a program consumes, as an AsyncAPI 3 document: made of the subscriptions themselves, so it cannot differ from them.
 */
import { Schema } from "effect"
import type { Pattern } from "../model/Address.ts"
import type { Content } from "../model/Channel.ts"
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

const schemaFormat = "application/schema+json;version=draft-2020-12"

/** Moves the references of one schema into the document's own schemas, named apart by `prefix`. */
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
  if (content._tag === "bytes") return {}
  const { contentType } = content.codec
  if (content._tag === "unchecked") return { contentType }
  const document = Schema.toJsonSchemaDocument(content.schema)
  for (const [name, definition] of Object.entries(document.definitions)) {
    schemas[`${prefix}.${name}`] = { schemaFormat, schema: moved(definition, prefix) }
  }
  return { contentType, payload: { schemaFormat, schema: moved(document.schema, prefix) } }
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

/**
 * Documents subscriptions: one channel for each that is read, with the schema of its payload, and one `receive` operation for
 * each subscription, described by its pipeline, with its answers where it is one of requests.
 *
 * Source: AsyncAPI 3.0.0; payloads are JSON Schema 2020-12 as Schema writes them.
 *
 * **Example** (one channel, one operation)
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { AsyncApi, Channel, Subscription } from "@millrace/core"
 *
 * const Orders = Channel.make("orders", { payload: Schema.Struct({ id: Schema.String }) })
 * const orders = Subscription.make(Orders, { group: "billing", name: "placeOrder" }, () => Effect.void)
 * const document = AsyncApi.document({ title: "Billing", version: "1.0.0", subscriptions: [orders] })
 * console.log(Object.keys(document.channels), Object.keys(document.operations))
 * // => [ 'orders' ] [ 'placeOrder' ]
 * ```
 *
 * @category documents
 */
export const document = (options: {
  readonly title: string
  readonly version: string
  readonly subscriptions: ReadonlyArray<Subscription<unknown, unknown>>
}): Document => {
  const channels: Record<string, Json> = {}
  const operations: Record<string, Json> = {}
  const schemas: Record<string, Json> = {}
  for (const subscription of options.subscriptions) {
    const id = idOf(subscription.channel)
    channels[id] ??= {
      address: subscription.channel,
      ...parametersOf(subscription.consumer.pattern),
      messages: { message: messageOf(subscription.content, id, schemas) }
    }
    let operation = idOf(subscription.name)
    // two subscriptions of one name differ by their channel
    if (operations[operation] !== undefined) operation = `${operation}.${id}`
    const replies = Description.ways(Description.of(subscription)).flat().find((step) => step.replies !== undefined)
    const answers = `${id}.answers`
    if (replies?.replies !== undefined) {
      channels[answers] ??= { address: null, messages: { message: messageOf(replies.replies, answers, schemas) } }
    }
    operations[operation] = {
      action: "receive",
      ...(replies === undefined ? undefined : {
        reply: { address: { location: "$message.header#/reply-to" }, channel: { $ref: `#/channels/${answers}` } }
      }),
      channel: { $ref: `#/channels/${id}` },
      title: subscription.name,
      summary: `Consumer group ${subscription.consumer.group}`,
      description: `\`\`\`text\n${Description.toText(subscription)}\n\`\`\``
    }
  }
  return {
    asyncapi: "3.0.0",
    info: { title: options.title, version: options.version },
    channels,
    operations,
    components: { schemas }
  }
}
