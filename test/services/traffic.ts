import { Broker, Channel, type Lanes, type Message, Subscription } from "@millrace/core"
import { Effect, Schedule } from "effect"
import { eventually, outgoing, textOf } from "./driving.ts"

/** Publishes numbers one after another and consumes them until it is over; answers what was sent, handled, and failed. */
export const traffic = (channel: string, lanes: Lanes.Lanes, isOver: () => boolean) =>
  Effect.gen(function*() {
    const got: Array<string> = []
    let failures = 0
    const handle = ({ payload }: Message<Uint8Array>) =>
      Effect.andThen(Effect.sleep("2 millis"), Effect.sync(() => void got.push(textOf(payload))))
    yield* Subscription.run(
      Subscription.make(
        Channel.bytes(channel),
        { group: "group", name: "reader", lanes, restart: { base: 20 } },
        handle
      )
    )
    const broker = yield* Broker.Broker
    const sent: Array<string> = []
    while (!isOver()) {
      const text = `m${sent.length}`
      // a publish whose connection ended may have been written
      yield* broker.publish(outgoing(channel, text)).pipe(
        Effect.tapError(() => Effect.sync(() => void failures++)),
        Effect.retry(Schedule.spaced("20 millis"))
      )
      sent.push(text)
      yield* Effect.sleep("1 millis")
    }
    yield* eventually(() => new Set(got).size >= sent.length)
    return { got, sent, failures }
  }).pipe(Effect.scoped)
