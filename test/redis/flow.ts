import { Broker, type BrokerError, Channel, Lanes, type Message, Subscription } from "@millrace/core"
import { Context, Effect, Fiber } from "effect"
import { outgoing, textOf } from "./support.ts"

/** Publishes one message after another and consumes them, until it is ended. */
export const flow = (context: Context.Context<Broker.Broker>, channel: string) =>
  Effect.gen(function*() {
    const broker = Context.get(context, Broker.Broker)
    const confirmed: Array<string> = []
    const done: Array<string> = []
    const failed: Array<BrokerError.BrokerError> = []
    let isEnded = false
    const subscription = Subscription.make(Channel.bytes(channel), {
      group: "workers",
      name: "here",
      lanes: Lanes.unordered(8),
      restart: { base: "20 millis", cap: "200 millis" },
      grace: { drain: "1 second" }
    }, (message: Message<Uint8Array>) => Effect.sync(() => void done.push(textOf(message.payload))))
    const running = yield* Subscription.run(subscription).pipe(Effect.provideContext(context))
    const publishing = yield* Effect.forkChild(Effect.gen(function*() {
      for (let i = 0; !isEnded; i++) {
        yield* broker.publish(outgoing(channel, `m-${i}`)).pipe(
          Effect.map(() => void confirmed.push(`m-${i}`)),
          Effect.catch((error) => Effect.sync(() => void failed.push(error)))
        )
        yield* Effect.sleep(2)
      }
    }))
    return {
      confirmed,
      done,
      failed,
      running,
      /** How many were written as far as is known: confirmed, or written without enough replicas. */
      written: () => confirmed.length + failed.filter(({ message }) => message.includes("replicas had it")).length,
      /** How many were written without enough replicas. */
      unconfirmed: () => failed.filter(({ message }) => message.includes("replicas had it")).length,
      /** Ends publishing, and answers what became of it; consuming goes on. */
      end: Effect.map(
        Effect.andThen(Effect.sync(() => void (isEnded = true)), Fiber.join(publishing)),
        () => ({ confirmed, done, failed })
      )
    }
  })
