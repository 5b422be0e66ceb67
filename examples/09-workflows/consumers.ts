/**
 * Three consumers: without a workflow, with a workflow for each message, and with a choice by content and header.
 */
import { DeadLetter, Decode, Idempotency, type Message, Route, Stack, Subscription } from "@millrace/core"
import { StartWorkflow } from "@millrace/workflow"
import { Effect } from "effect"
import { Fulfil, Large, Mixed, type Order, Simple } from "./orders.ts"
import type { Tally } from "./tally.ts"

const start = {
  workflow: Fulfil,
  key: (message: Message<Order>) => message.payload.id,
  payload: (message: Message<Order>) => message.payload
} as const

/** A message and a function. */
export const simple = (tally: Tally) =>
  Subscription.make(
    Simple,
    { group: "shop", name: "simple" },
    Stack.start().use(Decode.middleware(Simple)).handle(() => Effect.sync(() => tally.add("handled")))
  )

/** A message and a workflow; redelivered and duplicated messages join it. */
export const withWorkflow = (tally: Tally) =>
  Subscription.make(
    Large,
    { group: "shop", name: "with-workflow" },
    Stack.start().use(Decode.middleware(Large)).handle((message: Message<Order>) =>
      Effect.map(started(message), (answer) => tally.add(answer._tag))
    )
  )

const started = StartWorkflow.handler(start)

/** Small orders at once and once each; large and urgent ones by workflow; declined ones are dead letters. */
export const advanced = (tally: Tally) =>
  Subscription.make(
    Mixed,
    { group: "shop", name: "advanced" },
    Stack.start()
      .use(Decode.middleware(Mixed))
      .use(DeadLetter.tags("Declined"))
      .handle(Route.by(
        ({ headers, payload }: Message<Order>) =>
          payload.amount > 1_000 || headers["priority"] === "high" ? "workflow" : "inline",
        {
          inline: Stack.start<Message<Order>>()
            .use(Idempotency.middleware({ key: (message: Message<Order>) => message.payload.id }))
            .handle(() => Effect.sync(() => tally.add("inline"))),
          workflow: (message: Message<Order>) =>
            Effect.flatMap(finished(message), ({ _tag, result }) => {
              if (result._tag === "Failed" && result.error !== undefined) return Effect.fail(result.error)
              return Effect.sync(() => tally.add(_tag))
            })
        }
      ))
  )

const finished = StartWorkflow.handler({ ...start, await: "result" })
