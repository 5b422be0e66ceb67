import { Redaction } from "@millrace/core"
import { type Bench, type Goal, measure, type Variant } from "./Bench.ts"

const redaction = Redaction.make({ fields: ["card"] })

const order = JSON.stringify({
  id: "order-1",
  customer: { id: 7, name: "A Customer", email: "customer@example.org" },
  card: "4111111111111111",
  total: 129.5,
  currency: "EUR",
  status: "placed",
  items: [{ sku: "A-1", quantity: 2, price: 9.75 }],
  createdAt: "2026-01-02T03:04:05.000Z"
})

const stack = [
  "Error: connect ECONNREFUSED 127.0.0.1:5432",
  "    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1637:16)",
  "    at placeOrder (file:///srv/shop/src/orders/placeOrder.ts:41:11)",
  "    at Retry.middleware (file:///srv/shop/node_modules/@millrace/core/dist/middleware/Retry.js:88:20)",
  "    at runLoop (file:///srv/shop/node_modules/effect/dist/internal/effect.js:512:33)",
  "    at process.processTicksAndRejections (node:internal/process/task_queues:103:5)"
].join("\n")

/** Texts as programs write them: the order and the query hold a secret, the others hold none. */
const texts = {
  "an order": order,
  "a stack text": stack,
  "a sentence": "GET /orders/7?status=open&page=2 answered 404 in 3 ms",
  "an order with a note": JSON.stringify({
    ...JSON.parse(order),
    note: "Ring twice, it is \"the blue door\" on the left: 2nd floor"
  }),
  "a query with a token": "/orders?status=open&access_token=8d0f0a6e2b1c4f6d&page=2"
}

const variant = ([name, text]: readonly [name: string, text: string]): Variant => ({
  name,
  whose: "millrace",
  run: () =>
    measure((count) => {
      let length = 0
      for (let i = 0; i < count; i++) length += redaction.text(text).length
      return length
    })
})

const atMost = (id: string, text: string, name: string, target: number): Goal => ({
  id,
  text,
  target,
  better: "lower",
  measured: (of) => of(name).cpu
})

/** P4: what a text costs before it is kept or shown. */
export const redacting: Bench = {
  name: "redaction",
  about: "texts before they are kept or shown, by what they are",
  rounds: 3,
  variants: Object.entries(texts).map(variant),
  goals: [
    atMost("P4", "microseconds of the body of an order", "an order", 2.5),
    atMost("P4", "microseconds of a stack text", "a stack text", 1.2)
  ]
}
