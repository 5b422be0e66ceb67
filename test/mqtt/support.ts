import { type Delivery, type Driver, Outcome } from "@millrace/core"
import { Mqtt } from "@millrace/mqtt"
import type { Mosquitto } from "@millrace/testing/servers"
import { Effect, Exit, Fiber, Redacted, Scope } from "effect"
import { connect, type IClientOptions, type MqttClient as MqttJs } from "mqtt"
import { eventually, fresh, textOf } from "../services/driving.ts"

export { eventually, fresh, outgoing, textOf } from "../services/driving.ts"

/** Options for a server; the client id is another one each time. */
export const optionsOf = (server: Mosquitto.MosquittoServer, more?: Partial<Mqtt.Options>): Mqtt.Options => ({
  url: server.url,
  clientId: fresh("client"),
  ...more
})

/** A driver on a server. */
export const driverOf = (server: Mosquitto.MosquittoServer, more?: Partial<Mqtt.Options>) =>
  Mqtt.driver(optionsOf(server, more))

/** How a test consumes where it does not say. */
export const plain = {
  pattern: undefined,
  handler: "test",
  from: "earliest",
  ordered: false,
  messages: 1000,
  batch: 100,
  bytes: 64 * 1024 * 1024
} as const

/** An engine of a few lines: takes everything, settles when it is told to. */
export class Recorder implements Driver.Sink {
  readonly taken: Array<Delivery> = []
  readonly leases: Array<Driver.Lease> = []
  readies = 0
  /** Where set, `offer` answers it. */
  room: Effect.Effect<void> | undefined

  ready = () => {
    this.readies++
  }
  polled = () => {}
  open = (lease: Driver.Lease) => {
    this.leases.push(lease)
  }
  offer = (_lease: Driver.Lease, batch: ReadonlyArray<Delivery>): Effect.Effect<void> => {
    this.taken.push(...batch)
    return this.room ?? Exit.void
  }
  settled = () => Effect.void
  close = () => Effect.void

  get lease(): Driver.Lease {
    return this.leases.at(-1)!
  }
  get texts(): Array<string> {
    return this.taken.map(({ raw }) => textOf(raw))
  }
}

/** A consumer without an engine; `stop` ends it as the engine does. */
export const reading = (
  driver: Driver.Driver,
  options: Pick<Driver.ConsumeOptions, "channel" | "group"> & Partial<Driver.ConsumeOptions>,
  recorder = new Recorder()
) =>
  Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const before = recorder.readies
    const fiber = yield* Effect.forkScoped(Scope.provide(driver.consume({ ...plain, ...options }, recorder), scope))
    yield* Effect.raceFirst(
      eventually(() => recorder.readies > before),
      Effect.andThen(Fiber.join(fiber), Effect.never)
    )
    const close = Effect.suspend(() => Scope.close(scope, Exit.void))
    return { recorder, fiber, close, stop: Effect.andThen(Fiber.interrupt(fiber), close) }
  })

/** Settles what a recorder has as done. */
export const acknowledge = (recorder: Recorder, texts?: ReadonlyArray<string>) =>
  Effect.suspend(() =>
    recorder.lease.settle!(
      recorder.taken.filter(({ raw }) => texts?.includes(textOf(raw)) ?? true).map((delivery) => ({
        delivery,
        outcome: Outcome.Ack
      }))
    )
  )

/** A client of mqtt.js without Millrace, on a server. */
export const rawClient = (
  server: Pick<Mosquitto.MosquittoServer, "url">,
  options: IClientOptions = {}
): Effect.Effect<MqttJs, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<MqttJs>((resume) => {
      const client = connect(Redacted.value(server.url), { protocolVersion: 5, reconnectPeriod: 0, ...options })
      client.on("error", () => {})
      client.on("connect", () => resume(Effect.succeed(client)))
    }),
    (client) => Effect.promise(() => client.endAsync(true))
  )
