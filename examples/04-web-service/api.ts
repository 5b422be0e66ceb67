/**
 * The front of the service: three routes, and the consumer of the worker's replies.
 */
import { Correlate, Decode, Lanes, Log, type Message, RateLimit, Router, Stack } from "@millrace/core"
import { Body, type Request, Server } from "@millrace/http"
import { Inbox } from "@millrace/sql"
import { Effect, pipe } from "effect"
import { HttpServerResponse } from "effect/http"
import { randomUUID } from "node:crypto"
import { NewOrder, Replies, type Reply } from "./contract.ts"
import { Orders } from "./orders.ts"

/** The row and its message are committed before the answer leaves; a commit that fails is answered as what it is. */
const place = Effect.fnUntraced(function*({ payload }: Request<NewOrder>) {
  const id = yield* Effect.sync(() => randomUUID())
  const correlationId = (yield* Correlate.Current)?.id ?? id
  yield* (yield* Orders).place(id, correlationId, payload)
  yield* Effect.log(`${id}: accepted`)
  return HttpServerResponse.jsonUnsafe(
    { id, correlationId, status: "received" },
    { status: 202, headers: { location: `/orders/${id}`, "correlation-id": correlationId } }
  )
})

const idOf = ({ params }: Request) => params["id"] ?? ""

const find = (request: Request) => Effect.flatMap(Orders, (orders) => orders.find(idOf(request)))

const cancel = (request: Request) =>
  Effect.as(
    Effect.flatMap(Orders, (orders) => orders.cancel(idOf(request))),
    HttpServerResponse.jsonUnsafe({ id: idOf(request) }, { status: 202 })
  )

const record = ({ payload }: Message<Reply>) =>
  Effect.flatMap(
    Effect.flatMap(Orders, (orders) => orders.reply(payload)),
    (changed) => Effect.log(`${payload.data.id}: ${changed ? "is" : "was"} ${payload.data.status}`)
  )

/** What stands around every route. The route itself logs what it answers to a failure. */
const around = (limit: number) =>
  Stack.start<Request>()
    .use(Correlate.middleware())
    .use(Log.middleware({ levels: { done: "Debug", failed: "Debug" } }))
    .use(RateLimit.middleware({ name: "web", limit }))

const missing = { NoSuchOrder: { status: 404, detail: "message" } } as const
const refused = { ...missing, IllegalTransition: { status: 409, detail: "message" } } as const

/** The routes; `limit` is how many requests there may be in a second. */
export const routes = (limit: number) => {
  const stack = around(limit)
  return [
    Server.route("POST", "/orders", stack.use(Body.json(NewOrder, { limit: 65_536 })).handle(place)),
    Server.route("GET", "/orders/:id", stack.handle(find), { errors: missing }),
    Server.route("DELETE", "/orders/:id", stack.handle(cancel), { errors: refused })
  ]
}

/** The replies, each written once. */
export const subscriptions = Router.make({
  group: "web-front",
  through: Stack.start().use(Correlate.middleware()).use(Log.middleware({ levels: { done: "Debug" } }))
})
  .add(Replies, { name: "replies", lanes: Lanes.key(16) }, pipe(record, Inbox.middleware(), Decode.middleware(Replies)))
  .subscriptions
