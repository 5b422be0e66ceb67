/**
 * Millrace in a program of Express: a route publishes, and answers once the broker has confirmed.
 */
import express from "express"
import { once } from "node:events"
import { type Billing, type Order, start } from "./orders.ts"

const routes = (billing: Billing) => {
  const app = express()
  app.use(express.json())
  // oxlint-disable-next-line oxc/no-async-endpoint-handlers -- Express 5 answers a rejected promise with 500
  app.post("/orders", async (request, response) => {
    const order: Order = request.body
    await billing.publish(order)
    response.status(202).json({ accepted: order.id })
  })
  return app
}

const charged = Promise.withResolvers<void>()
const billing = await start((line) => {
  console.log(line)
  charged.resolve()
})
const server = routes(billing).listen(0, "127.0.0.1")
await once(server, "listening")
const address = server.address()
if (address === null || typeof address === "string") throw new Error("the server has no port")

const answer = await fetch(`http://127.0.0.1:${address.port}/orders`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ id: "o-1", amount: 3 })
})
console.log(answer.status, await answer.text())
await charged.promise

server.close()
await billing.close()
// => 202 {"accepted":"o-1"}
// => charged 3 for o-1
