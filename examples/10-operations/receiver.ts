/**
 * The receiver of alerts, as an on-call service would run it: signed webhooks, one line each.
 */
import { Stack } from "@millrace/core"
import { Body, type Request, Server } from "@millrace/http"
import { Hmac } from "@millrace/security"
import { Console, Effect, Schema } from "effect"

const Alert = Schema.Struct({
  type: Schema.String,
  data: Schema.Struct({ title: Schema.String })
})

const decode = Schema.decodeUnknownEffect(Schema.fromJsonString(Alert))

/** The route that alerts are posted to; another sender is refused with 401. */
export const route = (keys: Hmac.Keys) =>
  Server.route(
    "POST",
    "/alerts",
    Stack.start<Request>()
      .use(Body.bytes({ limit: 65_536 }))
      .use(Hmac.verify({ keys, replay: "allow" }))
      .handle(({ payload }) =>
        Effect.orDie(decode(new TextDecoder().decode(payload))).pipe(
          Effect.flatMap(({ data: { title }, type }) => Console.log(`${type}: ${title}`))
        )
      )
  )
