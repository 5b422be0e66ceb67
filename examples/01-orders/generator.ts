/**
 * Orders of all kinds, from a seed; each knows what must become of it.
 */
import { Effect, Random } from "effect"
import { type Order, Orders } from "./order.ts"
import { cards } from "./payments.ts"
import { Issuer } from "./tokens.ts"

/** What must become of a message, and how often the payment provider is asked on the way. */
export type Fate =
  | { readonly _tag: "Done"; readonly calls: number }
  | { readonly _tag: "Dead"; readonly calls: number; readonly errorType: string; readonly says: string }

const done = (calls: number): Fate => ({ _tag: "Done", calls })
const dead = (errorType: string, says: string, calls = 0): Fate => ({ _tag: "Dead", calls, errorType, says })

/** Each kind: its share of all orders, in thousandths, and its fate. What no share takes is one `burst` and `good`. */
const kinds = {
  good: { share: 0, fate: done(1) },
  anonymous: { share: 15, fate: dead("Unauthorized", "missing") },
  expired: { share: 15, fate: dead("Unauthorized", "expired") },
  forged: { share: 15, fate: dead("Unauthorized", "signature") },
  misshapen: { share: 15, fate: dead("DecodeError", `Not a payload of ${Orders.name}`) },
  truncated: { share: 15, fate: dead("DecodeError", "cannot be read") },
  flaky: { share: 20, fate: done(3) },
  hopeless: { share: 10, fate: dead("PaymentFailed", "No answer from the payment provider", 4) },
  burst: { share: 0, fate: done(1) }
} as const satisfies Record<string, { readonly share: number; readonly fate: Fate }>

export type Kind = keyof typeof kinds

/** A message as it will be published. */
export interface Planned {
  readonly id: string
  readonly kind: Kind
  readonly key: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array
  readonly fate: Fate
}

export interface Options {
  readonly orders: number
  readonly seed: number
  /** Begins every id, so that the messages of one run are told from those of another. */
  readonly run: string
}

const encoder = new TextEncoder()

const bodyOf = (kind: Kind, order: Order): Uint8Array => {
  if (kind === "misshapen") return encoder.encode(JSON.stringify({ ...order, amount: "a lot" }))
  const text = JSON.stringify(order)
  return encoder.encode(kind === "truncated" ? text.slice(0, -5) : text)
}

const tokenOf = (kind: Kind) => kind === "expired" || kind === "forged" ? kind : "good"

const cardOf = (kind: Kind) => kind === "flaky" || kind === "hopeless" ? cards[kind] : cards.good

// an object written in one piece has no other keys
const names: ReadonlyArray<Kind> = Object.keys(kinds) as ReadonlyArray<Kind>

/** Kinds in the order of publishing: shuffled, and one burst in the middle. */
const sequence = (orders: number): Effect.Effect<ReadonlyArray<Kind>> => {
  const burst = Math.min(400, Math.floor(orders / 4))
  const some = names.flatMap((kind) =>
    Array.from({ length: Math.round(orders * kinds[kind].share / 1000) }, () => kind)
  )
  const good = Array.from({ length: orders - burst - some.length }, (): Kind => "good")
  return Effect.map(Random.shuffle([...some, ...good]), (mixed) => {
    const middle = Math.floor(mixed.length / 3)
    return [...mixed.slice(0, middle), ...Array.from({ length: burst }, (): Kind => "burst"), ...mixed.slice(middle)]
  })
}

/** Plans the messages of a run; of equal options the kinds, customers and amounts are equal. Needs the `Issuer`. */
export const generate = Effect.fnUntraced(function*({ orders, run, seed }: Options) {
  const issuer = yield* Issuer
  const customers = Math.max(4, Math.floor(orders / 50))
  return yield* sequence(orders).pipe(
    Effect.flatMap(Effect.forEach((kind, n) =>
      Effect.gen(function*() {
        const id = `${run}-${String(n).padStart(6, "0")}`
        // whoever is in a hurry is one customer, and nobody else
        const customer = kind === "burst" ? "customer-0" : `customer-${yield* Random.nextIntBetween(1, customers)}`
        const amount = yield* Random.nextIntBetween(100, 50_000)
        const token = kind === "anonymous" ? undefined : yield* issuer.token(customer, tokenOf(kind))
        return {
          id,
          kind,
          key: customer,
          headers: { "message-id": id, ...token === undefined ? {} : { authorization: `Bearer ${token}` } },
          body: bodyOf(kind, { id, customer, card: cardOf(kind).number, amount }),
          fate: kinds[kind].fate
        } satisfies Planned
      })
    )),
    Random.withSeed(seed)
  )
})
