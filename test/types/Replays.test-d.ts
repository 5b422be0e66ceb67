import type { Effect, Stream } from "effect"
import { expectTypeOf, test } from "vitest"
import { Audit, Broker, type BrokerError, DeadLetters, Replays, type Subscription } from "@millrace/core"

declare const letter: DeadLetters.DeadLetter
declare const orders: Subscription.Subscription<"service">
const Archive = Broker.named("archive")

test("F22 a replay needs the broker of its letters, and what its middlewares need", () => {
  expectTypeOf(DeadLetters.replay(letter)).toEqualTypeOf<
    Effect.Effect<DeadLetters.Replayed, BrokerError.BrokerError, Broker.Broker>
  >()
  expectTypeOf(DeadLetters.replayAll("orders.dead-letters", { broker: Archive, reach: "all" })).toEqualTypeOf<
    Stream.Stream<DeadLetters.Replayed, BrokerError.BrokerError, Broker.Named<"archive">>
  >()
  void DeadLetters.replayAll("orders.dead-letters", { through: Audit.middleware() })
  // @ts-expect-error there are two
  void DeadLetters.replay(letter, { reach: "one" })
  expectTypeOf<DeadLetters.Replayed["how"]>().toEqualTypeOf<
    "published" | "already" | "incomplete" | "discarded" | "refused"
  >()
})

test("F22 the replays of a subscription need what it needs", () => {
  expectTypeOf(Replays.make(orders)).toEqualTypeOf<Subscription.Subscription<"service">>()
  expectTypeOf(Replays.layer(Replays.make(orders))).not.toBeAny()
})
