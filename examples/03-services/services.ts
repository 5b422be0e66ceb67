/**
 * Four services, each of them a subscription: one that routes by content, one that is slow, one that handles many at once.
 */
import { Batch, Decode, Lanes, Log, type Message, Publish, Route, Router, Stack } from "@millrace/core"
import { Console, Effect, pipe } from "effect"
import { Approvals, type Cancelled, Events, type Mail, Mails, type Placed } from "./events.ts"

type Placing = Message<typeof Placed.Type>
type Cancelling = Message<typeof Cancelled.Type>

/** What is large is sent on for approval, all else is done and confirmed by mail. */
const bill = pipe(
  Route.tags(Events, {
    Placed: Route.by(({ payload }: Placing) => payload.amount > 950 ? "large" : "small", {
      large: pipe(({ payload }: Placing) => Effect.succeed(payload), Publish.middleware(Approvals)),
      small: pipe(
        ({ payload }: Placing) => Effect.succeed({ to: payload.customer, subject: `Order ${payload.id} is paid` }),
        Publish.middleware(Mails)
      )
    }),
    Cancelled: pipe(
      ({ payload }: Cancelling) =>
        Effect.succeed({ to: payload.customer, subject: `Order ${payload.id} is cancelled` }),
      Publish.middleware(Mails)
    )
  }),
  Decode.middleware(Events)
)

const approve = pipe(
  ({ payload }: Placing) => Console.log(`  approvals: order ${payload.id} over ${payload.amount} needs a second look`),
  Decode.middleware(Approvals)
)

/** A mail takes its time. What waits for it stays with the broker, and no other service waits. */
const mail = pipe((_: Message<typeof Mail.Type>) => Effect.sleep("150 millis"), Decode.middleware(Mails))

/** One line for many events. */
const count = pipe(
  Batch.handler(
    { size: 200, wait: "1 second" },
    (events: ReadonlyArray<Message<typeof Placed.Type | typeof Cancelled.Type>>) => {
      const placed = events.filter(({ payload }) => payload._tag === "Placed").length
      return Console.log(`  statistics: ${placed} orders placed, ${events.length - placed} cancelled`)
    }
  ),
  Decode.middleware(Events)
)

/** What fails is logged; a group of its own, so that services that read one channel all get the whole of it. */
const service = (group: string) =>
  Router.make({ group, through: Stack.start().use(Log.middleware({ levels: { done: "Debug" } })) })

export const services = {
  billing: service("billing").add(Events, { name: "bill", lanes: Lanes.key(16) }, bill),
  approvals: service("approvals").add(Approvals, { name: "approve", lanes: Lanes.key(4) }, approve),
  mailer: service("mailer").add(Mails, { name: "mail", lanes: Lanes.unordered(4), inFlight: { messages: 32 } }, mail),
  statistics: service("statistics").add(Events, { name: "count", lanes: Lanes.unordered(400) }, count)
}

export type Name = keyof typeof services

export const names: ReadonlyArray<Name> = ["billing", "approvals", "mailer", "statistics"]
