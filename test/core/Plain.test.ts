import {
  Channel,
  Decode,
  MemoryBroker,
  type Message,
  Plain,
  Publisher,
  Retry,
  Stack,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Deliveries } from "@millrace/testing"
import { Effect, Schema } from "effect"
import { createServer } from "node:net"
import type { AddressInfo } from "node:net"

/** What a function throws becomes of the message. */
const outcomeOf = (thrown: () => unknown) =>
  Effect.map(
    Deliveries.settle(
      Subscription.make(
        Channel.bytes("orders"),
        { group: "g", name: "h" },
        Plain.handler(async (_: Message<Uint8Array>) => {
          throw await thrown()
        })
      ),
      Deliveries.make()
    ),
    ({ _tag }) => _tag
  )

/** What `fetch` rejects with at an address. */
const fetched = (url: string, init?: RequestInit) => async (): Promise<unknown> => {
  try {
    return await fetch(url, init)
  } catch (error) {
    return error
  }
}

const code = (name: string) => Object.assign(new Error(`read ${name}`), { code: name })

describe("X20 Plain", () => {
  it.effect("X4 an error of the network is tried again, one of the program is a dead letter", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<readonly [string, () => unknown, "Retry" | "DeadLetter"]> = [
        ["ECONNRESET", () => code("ECONNRESET"), "Retry"],
        ["ECONNRESET as a text", () => new Error("ECONNRESET"), "Retry"],
        ["EPIPE", () => code("EPIPE"), "Retry"],
        ["ETIMEDOUT", () => code("ETIMEDOUT"), "Retry"],
        ["ENOTFOUND", () => code("ENOTFOUND"), "Retry"],
        ["EMFILE", () => code("EMFILE"), "Retry"],
        ["a cause", () => new TypeError("fetch failed", { cause: code("UND_ERR_SOCKET") }), "Retry"],
        ["a certificate", () => code("CERT_HAS_EXPIRED"), "DeadLetter"],
        ["a class of its own", () => Object.assign(new Error("busy"), { failure: "transient" }), "Retry"],
        ["a mistake", () => new TypeError("undefined is not a function"), "DeadLetter"],
        ["ENOENT", () => code("ENOENT"), "DeadLetter"],
        ["a text", () => "ECONNRESET", "DeadLetter"],
        ["a proxy", () => new Proxy(new Error("x"), { get: () => assert.fail("unreadable") }), "DeadLetter"]
      ]
      for (const [name, thrown, outcome] of cases) assert.strictEqual(yield* outcomeOf(thrown), outcome, name)
    }))

  it.live("X4 what fetch rejects with is known: refused, reset, no name, late", () =>
    Effect.gen(function*() {
      const server = createServer((socket) => void socket.on("data", () => socket.destroy()))
      yield* Effect.promise(() => new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve)))
      const { port } = server.address() as AddressInfo
      const slow = createServer(() => {})
      yield* Effect.promise(() => new Promise<void>((resolve) => slow.listen(0, "127.0.0.1", resolve)))
      const silent = (slow.address() as AddressInfo).port
      const gone = createServer()
      yield* Effect.promise(() => new Promise<void>((resolve) => gone.listen(0, "127.0.0.1", resolve)))
      const free = (gone.address() as AddressInfo).port
      yield* Effect.promise(() => new Promise<void>((resolve) => void gone.close(() => resolve())))
      for (
        const thrown of [
          fetched(`http://127.0.0.1:${free}/`),
          fetched(`http://127.0.0.1:${port}/`),
          fetched("http://name.invalid/"),
          fetched(`http://127.0.0.1:${silent}/`, { signal: AbortSignal.timeout(20) })
        ]
      ) {
        assert.strictEqual(yield* outcomeOf(thrown), "Retry")
      }
      server.close()
      slow.close()
    }))

  it.live("X4 a program without Effect: consumers and publishers by promises", () =>
    Effect.promise(async () => {
      const Orders = Channel.make("orders", { payload: Schema.Struct({ id: Schema.String }) })
      const handled: Array<string> = []
      let calls = 0
      const all = Promise.withResolvers<void>()
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "h" },
        Stack.start()
          .use(Decode.middleware(Orders))
          .use(Retry.middleware({ schedule: Retry.exponential({ base: "1 millis" }) }))
          .handle(Plain.handler(async ({ payload }) => {
            if (++calls === 1) throw code("ECONNRESET")
            handled.push(await Promise.resolve(payload.id))
            if (handled.length === 2) all.resolve()
          }))
      )
      const program = await Plain.start(MemoryBroker.layer(), subscription)
      const publisher = Publisher.make(Orders)
      await program.publish(publisher, { id: "a" })
      await program.publish(publisher, { id: "b" }, { headers: { "x-note": "1" } })
      await all.promise
      await program.close()
      assert.deepStrictEqual(handled.sort(), ["a", "b"])
      assert.strictEqual(calls, 3)
    }))

  it.live("X4 a program that cannot start rejects, and leaves nothing behind", () =>
    Effect.promise(async () => {
      const wrong = Subscription.make(
        Channel.bytes("orders"),
        { group: "g", name: "h", from: "earliest" },
        Plain.handler((_: Message<Uint8Array>) => undefined)
      )
      const layer = MemoryBroker.layer()
      const program = await Plain.start(layer, wrong)
      await program.close()
      try {
        await program.publish(Publisher.make(Channel.bytes("orders")), new Uint8Array(1))
        assert.fail("it was published")
      } catch (error) {
        assert.notInclude(String(error), "it was published")
      }
    }))
})
