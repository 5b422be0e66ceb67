/**
 * The API: two routes, and what stands around them. The order is data; `node main.ts --order` prints it.
 */
import { Auth, Correlate, type Health, type Idempotency, Log, RateLimit, Stack, Timeout } from "@millrace/core"
import { Body, Caller, HealthRoutes, IdempotencyKey, RateLimitFields, type Request, Server } from "@millrace/http"
import { Effect, Schema } from "effect"
import { HttpServerResponse } from "effect/http"
import { Ledger } from "./ledger.ts"
import { Screening } from "./screening.ts"
import { scope } from "./tokens.ts"

const Account = Schema.String.check(Schema.isPattern(/^[a-z0-9-]{1,40}$/))

const NewTransfer = Schema.Struct({
  to: Account,
  amount: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000_000 })),
  // it is in no log
  iban: Schema.optionalKey(Schema.String.check(Schema.isMaxLength(34)))
})

const place = Effect.fnUntraced(function*({ payload }: Request<typeof NewTransfer.Type>) {
  const { subject } = yield* Auth.Principal
  yield* (yield* Screening).check(payload.to)
  const transfer = yield* (yield* Ledger).transfer(subject, payload.to, payload.amount)
  return HttpServerResponse.jsonUnsafe(transfer, { status: 201, headers: { location: `/transfers/${transfer.id}` } })
})

const find = Effect.fnUntraced(function*(request: Request) {
  const { subject } = yield* Auth.Principal
  return yield* (yield* Ledger).find(request.params["id"] ?? "", subject)
})

export interface Limits {
  /** The proxies whose word on a client's address is taken. */
  readonly trusted: ReadonlyArray<string>
  /** How many requests an address and a user may send in a minute. */
  readonly address: number
  readonly user: number
}

/** What stands around every route, from the outside in. */
export const around = ({ address, trusted, user }: Limits) => {
  const onDecision = RateLimitFields.onDecision()
  const addressOf = Caller.address({ trusted })
  return Stack.start<Request>()
    // an id for whoever looks for this request later, in logs and at others
    .use(Correlate.middleware())
    // one line for each request; of one that fails the route says what it answered
    .use(
      Log.middleware({
        levels: { failed: "Debug" },
        slow: "1 second",
        body: { characters: 300 },
        redact: { fields: ["iban"] }
      })
    )
    // who is not known yet is counted by address: a flood of wrong tokens is one, too
    .use(RateLimit.middleware({
      name: "address",
      by: (request: Request) => addressOf(request),
      limit: address,
      window: "1 minute"
    }))
    .use(Auth.middleware({ scopes: [scope] }))
    .use(RateLimit.middleware({
      name: "user",
      by: (request: Request) => Caller.principal(request),
      limit: user,
      window: "1 minute",
      onDecision
    }))
}

/** Of what may not be done twice: a key, then the body, then the time that it may take. */
export const once = (limits: Limits) =>
  around(limits)
    .use(IdempotencyKey.middleware({ running: "wait", maximumWait: "3 seconds" }))
    .use(Body.json(NewTransfer, { limit: 4096 }))
    .use(Timeout.middleware({ after: "2 seconds" }))

/** The whole way of a transfer. */
export const transfers = (limits: Limits) => once(limits).handle(place)

type Needs = Auth.Verifier | Health.Registry | Idempotency.Store | Ledger | RateLimit.Store | Screening

export const routes = (limits: Limits): ReadonlyArray<Server.Route<Needs>> => [
  Server.route("POST", "/transfers", transfers(limits), {
    errors: { InsufficientFunds: { status: 422, title: "Insufficient funds", detail: "message" } }
  }),
  Server.route("GET", "/transfers/:id", around(limits).handle(find), { errors: { NoSuchTransfer: { status: 404 } } }),
  ...HealthRoutes.make()
]
