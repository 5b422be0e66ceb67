/**
 * Another service that says whether an account may be paid. It is slow at times, so it is asked through a time limit and a circuit
 * breaker; one that stands in for it runs in this process.
 */
import { CircuitBreaker, Correlate, Timeout } from "@millrace/core"
import { Client, type Request, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Context, Data, type Duration, Effect, Layer, pipe } from "effect"
import { HttpClient, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"

/** The account is not to be paid; class `permanent`, so the answer is decided, and kept under its key. */
export class AccountBlocked extends Data.TaggedError("AccountBlocked")<{ readonly failure: "permanent" }> {}

type Asked = Effect.Effect<
  void,
  AccountBlocked | Client.StatusFailed | Client.RequestFailed | CircuitBreaker.CircuitOpen | Timeout.TimeoutExceeded
>

export class Screening extends Context.Service<Screening, {
  readonly check: (account: string) => Asked
}>()("examples/guarded/Screening") {}

/** Stands in for the other service: it takes long over accounts that begin with `slow`, and fails over those with `down`. */
const standIn = Server.route("GET", "/accounts/:id", (request: Request) => {
  const id = request.params["id"] ?? ""
  const answer = HttpServerResponse.jsonUnsafe({ blocked: id.startsWith("blocked") })
  return id.startsWith("slow")
    ? Effect.as(Effect.sleep("1 minute"), answer)
    : Effect.succeed(id.startsWith("down") ? HttpServerResponse.empty({ status: 503 }) : answer)
})

const own = Effect.map(
  Layer.build(Listener.layer(createServer, [standIn], { port: 0, host: "127.0.0.1", grace: "100 millis" })),
  (context) => `http://127.0.0.1:${Context.get(context, Listener.Address).port}`
)

/** Three failures in a row open the circuit for as long; while it is open nobody waits for what will not come. */
export const layer = (options: { readonly url: string | undefined; readonly openFor: Duration.Input }) =>
  Layer.effect(
    Screening,
    Effect.gen(function*() {
      const url = options.url ?? (yield* own)
      const circuits = yield* CircuitBreaker.Circuits
      const client = Client.make(yield* HttpClient.HttpClient, (next) =>
        pipe(
          next,
          Timeout.middleware({ after: "500 millis" }),
          CircuitBreaker.middleware({
            name: "screening",
            trip: CircuitBreaker.consecutive(3),
            openFor: options.openFor
          }),
          Correlate.middleware()
        ))
      const check = (account: string): Asked =>
        Effect.gen(function*() {
          const response = yield* client.get(`${url}/accounts/${encodeURIComponent(account)}`)
          const { blocked } = (yield* Effect.orDie(response.json)) as { readonly blocked: boolean }
          if (blocked) return yield* new AccountBlocked({ failure: "permanent" })
        }).pipe(Effect.provideService(CircuitBreaker.Circuits, circuits))
      return Screening.of({ check })
    })
  )
