import { Broker, BrokerError, Channel, type Delivery, Lanes, Subscription } from "@millrace/core"
import { JetStream } from "@millrace/nats"
import type { Nats as Servers } from "@millrace/testing/servers"
import { connect, type NatsConnection } from "@nats-io/transport-node"
import { Cause, Effect, Exit, type Layer, Redacted, type Scope } from "effect"
import { outgoing, textOf } from "../services/driving.ts"

export { bytes, eventually, fresh, outgoing, textOf } from "../services/driving.ts"

export const optionsOf = (server: Servers.NatsServer, more?: Partial<JetStream.Options>): JetStream.Options => ({
  servers: Redacted.value(server.url),
  consumer: { claim: "2 seconds", takeover: "1 second" },
  ...more
})

export const layerOf = (
  server: Servers.NatsServer,
  more?: Partial<JetStream.Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError> => JetStream.layer(optionsOf(server, more))

/** The error that it must fail with. */
export const failureOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<BrokerError.BrokerError, never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
    if (error instanceof BrokerError.BrokerError) return error
    throw new Error(`Expected a BrokerError, got ${String(error)}`)
  })

/** Publishes texts in order. */
export const send = (channel: string, ...texts: ReadonlyArray<string>) =>
  Effect.flatMap(Broker.Broker, (broker) => broker.publishAll(texts.map((text) => outgoing(channel, text))))

/** Consumes until the scope closes; the texts are those that its handler was called with. */
export const reader = (
  channel: string,
  options: Partial<Subscription.Options> = {},
  handle: (delivery: Delivery) => Effect.Effect<unknown> = () => Effect.void
): Effect.Effect<
  { readonly texts: ReadonlyArray<string>; readonly running: Broker.Running },
  BrokerError.BrokerError,
  Broker.Broker | Scope.Scope
> => {
  const texts: Array<string> = []
  return Effect.map(
    Subscription.run(Subscription.make(
      Channel.bytes(channel),
      { group: "group", name: "reader", lanes: Lanes.unordered(16), restart: { base: 20, cap: 200 }, ...options },
      (delivery: Delivery) => {
        texts.push(textOf(delivery.raw))
        return handle(delivery)
      }
    )),
    (running) => ({ texts, running })
  )
}

/** The client itself, beside the driver. */
export const client = (
  server: Servers.NatsServer,
  more: Parameters<typeof connect>[0] = {}
): Effect.Effect<NatsConnection, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => connect({ servers: server.address, ...more })),
    (nc) => Effect.promise(() => nc.close())
  )
