import { type Broker, BrokerError, Channel, type Failure, Lanes, type Message, Subscription } from "@millrace/core"
import { RabbitMq } from "@millrace/rabbitmq"
import type { RabbitMq as Servers } from "@millrace/testing/servers"
import { connect } from "amqplib"
import { Cause, Effect, Redacted, type Scope } from "effect"
import { fresh, textOf } from "../services/driving.ts"

export { bytes, eventually, fresh, outgoing, textOf } from "../services/driving.ts"

/** How tests connect. */
export const optionsOf = (server: Servers.RabbitMqServer, more?: Partial<RabbitMq.Options>): RabbitMq.Options => ({
  url: server.url,
  ...more
})

/** The error that it must fail with. */
export const errorOf = <A, R>(effect: Effect.Effect<A, BrokerError.BrokerError, R>) =>
  Effect.map(Effect.exit(effect), (exit) => {
    const error = exit._tag === "Failure" ? Cause.squash(exit.cause) : undefined
    if (error instanceof BrokerError.BrokerError) return error
    throw new Error("It did not fail as a broker does")
  })

/** `n` texts in order. */
export const numbered = (n: number, prefix = "m") => Array.from({ length: n }, (_, i) => `${prefix}-${i}`)

interface Got {
  readonly text: string
  readonly attempt: number
}

/** What tests do on a server. */
export const on = (server: () => Servers.RabbitMqServer) => {
  /** A plain client beside ours. */
  const raw = <A>(run: (model: Awaited<ReturnType<typeof connect>>) => Promise<A>) =>
    Effect.promise(async () => {
      const model = await connect(Redacted.value(server().url))
      try {
        return await run(model)
      } finally {
        await model.close()
      }
    })

  const consuming = (
    channel: string,
    handle: (message: Message<Uint8Array>) => Effect.Effect<unknown, Failure.Classified>,
    options: Partial<Subscription.Options> = {}
  ) =>
    Effect.gen(function*() {
      const got: Array<Got> = []
      const running = yield* Subscription.run(Subscription.make(
        Channel.bytes(channel),
        {
          group: "readers",
          name: fresh("reader"),
          lanes: Lanes.unordered(8),
          restart: { base: 20, cap: 200 },
          ...options
        },
        (message: Message<Uint8Array>) => {
          got.push({ text: textOf(message.payload), attempt: message.attempt })
          return handle(message)
        }
      ))
      return { running, got, texts: () => got.map(({ text }) => text) }
    })

  const using = <A, E>(
    body: Effect.Effect<A, E, Broker.Broker | Scope.Scope>,
    more?: Partial<RabbitMq.Options>
  ) => Effect.provide(Effect.scoped(body), RabbitMq.layer(optionsOf(server(), more)))

  return { raw, consuming, using }
}
