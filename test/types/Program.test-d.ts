import { Broker, Channel, Health, MemoryBroker, Subscription } from "@millrace/core"
import { Program } from "@millrace/program"
import { OutboxRelay } from "@millrace/sql"
import { type Config, Context, Effect, Layer, type Scope } from "effect"
import type { SqlClient } from "effect/sql"
import { describe, expectTypeOf, it } from "vitest"

class Database extends Context.Service<Database, { readonly ask: Effect.Effect<number> }>()("Database") {}
class Prices extends Context.Service<Prices, { readonly all: number }>()("Prices") {}
declare const database: Layer.Layer<Database, "no database", Prices>
declare const web: Layer.Layer<Prices, "no port", Database>
declare const nightly: Effect.Effect<void, "late", Database | Scope.Scope>

const orders = Subscription.make(Channel.bytes("orders"), { group: "g", name: "orders" }, () => Database)

describe("T3 a program's types", () => {
  it("T3 parts keep the services that they need", () => {
    expectTypeOf(Program.server(web)).toEqualTypeOf<Program.Part<Database>>()
    expectTypeOf(Program.worker(nightly, { onEnd: "restart" })).toEqualTypeOf<Program.Part<Database>>()
    expectTypeOf(Program.subscription(orders)).toEqualTypeOf<Program.Part<Broker.Broker | Database>>()
    expectTypeOf(
      Program.worker(web, {
        watch: (services) => {
          expectTypeOf(services).toEqualTypeOf<Context.Context<Prices>>()
          return Effect.flatMap(Broker.Broker, ({ check }) => check)
        }
      })
    ).toEqualTypeOf<Program.Part<Database | Broker.Broker>>()
  })

  it("T3 a program needs what its parts need and its services do not give", () => {
    const parts = { orders, web: Program.server(web, { stop: "1 second" }), nightly }
    const open = Program.make({ name: "shop", parts })
    expectTypeOf(open).toEqualTypeOf<
      Program.Program<"orders" | "web" | "nightly", never, Broker.Broker | Database>
    >()
    const served = Program.make({ name: "shop", parts, services: Layer.merge(database, MemoryBroker.layer()) })
    expectTypeOf(served).toEqualTypeOf<Program.Program<"orders" | "web" | "nightly", "no database", Prices>>()
    expectTypeOf(Program.layer(served)).toEqualTypeOf<
      Layer.Layer<
        Program.Running,
        "no database" | Program.PartFailed | Program.SelectionError | Config.ConfigError,
        Prices
      >
    >()
    // a generic layer keeps its needs inside an object of parts
    const inside = Program.make({
      name: "shop",
      parts: { relay: Program.relay(OutboxRelay.layer()), r: OutboxRelay.layer() }
    })
    expectTypeOf(inside).toEqualTypeOf<
      Program.Program<"relay" | "r", never, Broker.Broker | SqlClient.SqlClient>
    >()
    // @ts-expect-error a service is missing
    Program.run(served)
    Program.run(Program.make({ name: "shop", parts: { a: Effect.void }, services: Health.layer([]) }))
  })

  it("T3 a name is there once, and known", () => {
    const program = Program.make({ name: "shop", parts: { web: Effect.void, orders: Effect.void } })
    Program.layer(program, { only: ["web"], without: ["orders"] })
    // @ts-expect-error no part has this name
    Program.layer(program, { only: ["mailer"] })
    // @ts-expect-error a name for two parts
    // oxlint-disable-next-line no-dupe-keys -- the compiler refuses it, too
    Program.make({ name: "shop", parts: { web: Effect.void, web: Effect.never } })
    // @ts-expect-error a number is no part
    Program.make({ name: "shop", parts: { web: 1 } })
    // @ts-expect-error an object that is no part
    Program.run(Program.make({ name: "shop", parts: { web: { listen: 1 } } }))
    // @ts-expect-error effects have nothing to watch
    Program.worker(Effect.void, { watch: () => Effect.never })
  })
})
