/**
 * What both sides of the stack benchmark do: orders with a token each, a handler, and a tracer and a logger whose output nobody
 * waits for.
 */
import { Data, Effect, Logger, Schema, Tracer } from "effect"
import { type CryptoKey, exportJWK, generateKeyPair, SignJWT } from "jose"

/** Twelve fields. */
export const Order = Schema.Struct({
  id: Schema.String,
  customer: Schema.Struct({ id: Schema.Int, name: Schema.String, email: Schema.String }),
  card: Schema.String,
  total: Schema.Finite,
  currency: Schema.Literals(["EUR", "USD"]),
  status: Schema.Literals(["placed", "paid", "shipped"]),
  items: Schema.Array(Schema.Struct({ sku: Schema.String, quantity: Schema.Int, price: Schema.Finite })),
  createdAt: Schema.String
})
export type Order = typeof Order.Type

export const channel = "orders"
export const group = "bench"
export const handlerName = "placeOrder"
export const scope = "orders:write"

export class Busy extends Data.TaggedError("Busy") {
  readonly failure = "transient" as const
}
export class Declined extends Data.TaggedError("Declined") {
  readonly failure = "permanent" as const
}

/** A record as it comes from a broker. */
export interface Incoming {
  readonly position: number
  readonly key: string
  readonly headers: { readonly authorization: string; readonly traceparent: string }
  readonly body: Uint8Array
}

/** What becomes of a message: all are `good` when it is timed, and there are some of each when the two sides are compared. */
const kinds = ["good", "flaky", "declined", "forged", "unreadable", "invalid"] as const
type Kind = (typeof kinds)[number]

export const issuer = "https://accounts.example"
const customers = 64
const encoder = new TextEncoder()

/** What is published again and again. */
export interface Work {
  readonly jwk: { readonly [name: string]: unknown }
  readonly publicKey: CryptoKey
  /** The same message at the same position, for a share of sampled traces from 0 to 1. */
  readonly message: (position: number) => Incoming
}

const traceparent = (position: number, sampled: boolean): string =>
  `00-4bf92f3577b34da6${position.toString(16).padStart(16, "0")}-00f067aa0ba902b7-0${sampled ? 1 : 0}`

export const makeWork = async (
  options: { readonly distinct: number; readonly sampled: number; readonly mixed: boolean }
): Promise<Work> => {
  const [own, stranger] = await Promise.all([
    generateKeyPair("RS256", { extractable: true }),
    generateKeyPair("RS256")
  ])
  const sign = (customer: number, key: CryptoKey) =>
    new SignJWT({ scope }).setProtectedHeader({ alg: "RS256", typ: "JWT" }).setSubject(`customer-${customer}`)
      .setIssuer(issuer).setAudience(channel).setExpirationTime("1 hour").sign(key)
  const tokens = await Promise.all(Array.from({ length: customers }, (_, i) => sign(i, own.privateKey)))
  const forged = await sign(0, stranger.privateKey)
  const bodyOf = (position: number, kind: Kind): string => {
    const order: Order = {
      id: `${kind}-${position}`,
      customer: { id: position % customers, name: "A Customer", email: "customer@example.org" },
      card: "4111111111111111",
      total: 129.5 + position % 7,
      currency: "EUR",
      status: "placed",
      items: [{ sku: "A-1", quantity: 2, price: 9.75 }],
      createdAt: "2026-01-02T03:04:05.000Z"
    }
    if (kind === "unreadable") return "{\"id\":"
    return JSON.stringify(kind === "invalid" ? { ...order, currency: "shells" } : order)
  }
  const all = Array.from({ length: options.distinct }, (_, position): Incoming => {
    const kind = options.mixed ? kinds[position % kinds.length]! : "good"
    const token = kind === "forged" ? forged : tokens[position % customers]!
    return {
      position,
      key: `customer-${position % customers}`,
      headers: {
        authorization: `Bearer ${token}`,
        traceparent: traceparent(position, position % 1000 < options.sampled * 1000)
      },
      body: encoder.encode(bodyOf(position, kind))
    }
  })
  return {
    jwk: { ...await exportJWK(own.publicKey), alg: "RS256" },
    publicKey: own.publicKey,
    message: (position) => all[position % all.length]!
  }
}

/** The handler: an order is placed for a customer. */
export class Shop {
  /** Customer and order, where they are kept to be compared. */
  readonly placed: Array<string> | undefined
  count = 0
  sum = 0
  private readonly seen = new Set<string>()

  constructor(keep: boolean) {
    this.placed = keep ? [] : undefined
  }

  place(order: Order, subject: string): Effect.Effect<void, Busy | Declined> {
    if (order.id.startsWith("flaky") && !this.seen.has(order.id)) {
      this.seen.add(order.id)
      return Effect.fail(new Busy())
    }
    if (order.id.startsWith("declined")) return Effect.fail(new Declined())
    this.count++
    this.sum += order.total
    this.placed?.push(`${subject} ${order.id}`)
    return Effect.void
  }
}

/** Spans in batches, as an exporter takes them; the exporter does nothing. */
export const makeTracer = (keep: boolean) => {
  const kept: Array<Tracer.Span> = []
  let batch: Array<Tracer.Span> = []
  class Recorded extends Tracer.NativeSpan {
    override end(...args: Parameters<Tracer.NativeSpan["end"]>): void {
      super.end(...args)
      if (!this.sampled) return
      if (keep) kept.push(this)
      if (batch.push(this) === 512) batch = []
    }
  }
  return { kept, tracer: Tracer.make({ span: (options) => new Recorded(options) }) }
}

/** Lines of JSON in batches, as a writer takes them; the writer does nothing. */
export const makeLogger = (keep: boolean) => {
  const kept: Array<string> = []
  let batch: Array<string> = []
  const logger = Logger.map(Logger.formatJson, (line) => {
    if (keep) kept.push(line)
    if (batch.push(line) === 512) batch = []
  })
  return { kept, layer: Logger.layer([logger]) }
}

/** One way through the stack. */
export interface Options {
  readonly audit: "durable" | "memory"
  readonly log: boolean
  /** The share of messages whose sender samples their trace, from 0 to 1. */
  readonly sampled: number
}

/** What the two sides are compared by. */
export interface Seen {
  readonly placed: ReadonlyArray<string>
  /** Position and error's tag. */
  readonly letters: ReadonlyArray<string>
  readonly rows: ReadonlyArray<string>
  readonly spans: ReadonlyArray<string>
  readonly lines: ReadonlyArray<string>
  readonly counts: { readonly [status: string]: number }
}

/** One side, ready to run. */
export interface Side {
  /** Handles `count` messages, from the next position on; completes when all of them are settled. */
  readonly run: (count: number) => Promise<void>
  readonly seen: () => Promise<Seen>
  readonly close: () => Promise<void>
}

export const spanText = (span: Tracer.Span): string => {
  const names = [
    "messaging.system",
    "messaging.destination.name",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.consumer.group.name",
    "messaging.destination.partition.id",
    "error.type"
  ]
  const { exit } = span.status as Extract<Tracer.SpanStatus, { _tag: "Ended" }>
  return [span.name, span.kind, span.traceId, exit._tag, ...names.map((name) => span.attributes.get(name))].join(" ")
}

export const rowText = (row: { readonly [column: string]: unknown }): string => {
  const names = ["kind", "channel", "partition", "position", "key", "handler", "attempt", "status", "errorTag"]
  // of a body that is no JSON each keeps what it can
  const body = String(row["body"]).endsWith("}") ? row["body"] : "unreadable"
  return [...names.map((name) => row[name]), body].join(" ")
}

/** Lines without times and ids of spans. */
export const lineText = (line: string): string => {
  const { annotations, level, message } = JSON.parse(line) as {
    readonly annotations: { readonly [name: string]: unknown }
    readonly level: string
    readonly message: unknown
  }
  const names = Object.keys(annotations).filter((name) => !["durationMs", "spanId", "failure"].includes(name)).sort()
  return [level, String(message), ...names.map((name) => `${name}=${String(annotations[name])}`)].join(" ")
}
