import {
  Audit,
  Auth,
  Broker,
  Channel,
  ConsumerLag,
  Health,
  MemoryBroker,
  type Message,
  Outgoing,
  Replays,
  Stack,
  Subscription,
  Subscriptions
} from "@millrace/core"
import { Dashboard, MonitorRoutes } from "@millrace/dashboard"
import * as Listener from "@millrace/http/Listener"
import { Monitor, Preset } from "@millrace/monitor"
import { Context, Data, Effect, Layer, Logger } from "effect"
import { createServer } from "node:http"

export class SoldOut extends Data.TaggedError("SoldOut")<{ readonly message: string }> {
  readonly failure = "permanent" as const
}

/** The program whose page is looked at: a handler that fails while `state.isBroken`. */
export const state = { isBroken: true, handled: [] as Array<string> }

/** A text that would run in a page that parses it as HTML. */
export const script = "<img src=x onerror=\"document.title='attacked'\">"

const text = (message: Message<Uint8Array>) => new TextDecoder().decode(message.payload)

const orders = Subscription.make(
  Channel.bytes("orders"),
  { group: "billing", name: "orders" },
  Stack.start().use(Monitor.middleware()).handle((message): Effect.Effect<void, SoldOut> => {
    if (state.isBroken) return Effect.fail(new SoldOut({ message: `item ${message.position} is sold out ${script}` }))
    return Effect.sync(() => void state.handled.push(text(message)))
  })
)

export const tokens = {
  read: "read-token-of-the-test",
  write: "write-token-of-the-test",
  none: "none-token-of-the-test"
}

const verifier = Auth.layerMemory({
  [tokens.read]: { subject: "ada", scopes: ["monitor:read"] },
  [tokens.write]: { subject: "grace", scopes: ["monitor:read", "monitor:write"] },
  [tokens.none]: { subject: "bob", scopes: [] }
})

const read = Auth.middleware({ scopes: ["monitor:read"] })

export type Options = Omit<Dashboard.Options<never>, "through" | "actions">

const routes = (options: Options) => [
  ...MonitorRoutes.make({ through: read, cache: 0 }),
  ...Dashboard.make({
    title: "Orders & more",
    every: "200 millis",
    ...options,
    through: read,
    actions: Auth.middleware({ scopes: ["monitor:write"] })
  })
]

/** The program with its server; the address of the page's server, and the services. */
export const start = (options: Options = {}) =>
  Effect.gen(function*() {
    state.isBroken = true
    state.handled = []
    const base = Layer.merge(Health.layer([Health.broker(), Health.subscriptions()]), Replays.layer(orders)).pipe(
      Layer.provideMerge(Subscriptions.layer([orders]))
    )
    const layer = Listener.layer(createServer, routes(options), { port: 0, host: "127.0.0.1" }).pipe(
      Layer.provideMerge(ConsumerLag.layer({ every: "100 millis" })),
      Layer.provideMerge(base),
      Layer.provideMerge(Monitor.layer(Preset.production).pipe(Layer.provide(Monitor.layerMemory))),
      Layer.provideMerge(Layer.mergeAll(MemoryBroker.layer({ partitions: 1 }), Audit.layerMemory(), verifier)),
      Layer.provide(Logger.layer([]))
    )
    const context = yield* Layer.build(layer)
    yield* Effect.provideContext(Health.started, context)
    // open streams end
    yield* Effect.addFinalizer(() => Effect.provideContext(Health.draining, context))
    return { context, url: `http://127.0.0.1:${Context.get(context, Listener.Address).port}` }
  })

/** Publishes orders, and waits until all are handled or dead. */
export const publish = (
  context: Context.Context<Broker.Broker | Subscriptions.Registry>,
  ...bodies: ReadonlyArray<string>
) =>
  Effect.gen(function*() {
    const broker = yield* Broker.Broker
    for (const body of bodies) {
      yield* broker.publish(new Outgoing("orders", new TextEncoder().encode(body), undefined, {}))
    }
    const registry = yield* Subscriptions.Registry
    const isDone = Effect.map(registry.list, ([health]) =>
      health !== undefined && health.pending === 0 && health.settled >= bodies.length)
    yield* Effect.repeat(Effect.andThen(Effect.sleep("20 millis"), isDone), {
      until: (done) =>
        done
    })
  }).pipe(Effect.provideContext(context))
