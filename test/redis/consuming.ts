import { Broker, Channel, type Lanes, type Message, Subscription } from "@millrace/core"
import { Effect } from "effect"
import { outgoing, textOf } from "./support.ts"

/** Short times, so that tests need not wait. */
export const consumer = { claim: "500 millis", lock: "500 millis", maximumWait: "100 millis" } as const

/** A consumer in this process: what it got, and how often each was delivered. */
export const consume = (
  channel: string,
  handle: (message: Message<Uint8Array>) => Effect.Effect<unknown, { readonly failure: "transient" }>,
  lanes: Lanes.Lanes,
  from: "earliest" | "latest" = "earliest"
) =>
  Effect.gen(function*() {
    const got: Array<string> = []
    const attempts: Array<number> = []
    const subscription = Subscription.make(Channel.bytes(channel), {
      group: "workers",
      name: "here",
      lanes,
      from,
      restart: { base: "20 millis", cap: "100 millis" },
      backoff: { base: "20 millis", cap: "100 millis" },
      grace: { drain: 0 }
    }, (message: Message<Uint8Array>) => {
      got.push(textOf(message.payload))
      attempts.push(message.attempt)
      return handle(message)
    })
    const running = yield* Subscription.run(subscription)
    return { got, attempts, running }
  })

export const publish = (channel: string, texts: ReadonlyArray<string>) =>
  Effect.flatMap(
    Broker.Broker,
    (broker) => broker.publishAll(texts.map((text) => outgoing(channel, text, { key: text })))
  )

export const lagOf = (channel: string) =>
  Effect.flatMap(
    Broker.Broker,
    (broker) =>
      Effect.map(broker.lag(channel, "workers"), (lags) => lags.reduce((sum, { messages }) => sum + messages, 0))
  )
