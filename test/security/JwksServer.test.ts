import { Auth, type Envelope } from "@millrace/core"
import { type Request, Server } from "@millrace/http"
import { Jwt } from "@millrace/security"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { FetchHttpClient } from "effect/http"
import { TestClock } from "effect/testing"
import * as jose from "jose"
import { createServer, type Server as NodeServer, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { call, serve } from "../http/support.ts"
import { claims, epoch, issuer, sign } from "./support.ts"

const keyOf = async (kid: string) => {
  const pair = await jose.generateKeyPair("EdDSA", { extractable: true })
  return {
    jwk: { ...await jose.exportJWK(pair.publicKey), kid },
    token: await sign(pair.privateKey, { ...claims, exp: epoch + 1_000_000 }, { alg: "EdDSA", kid })
  }
}

const [one, two, three] = await Promise.all([keyOf("one"), keyOf("two"), keyOf("three")])

const listen = (server: NodeServer, port: number) =>
  Effect.callback<number>((resume) => {
    server.listen(port, "127.0.0.1", () => resume(Effect.succeed((server.address() as AddressInfo).port)))
  })

/** An issuer of its own, with everything that it may do to whoever reads its keys. */
const issuerServer = Effect.gen(function*() {
  const state = { keys: [one.jwk], answer: undefined as ((response: ServerResponse) => void) | undefined, asked: 0 }
  let arrived = Promise.withResolvers<void>()
  const make = () =>
    createServer((_request, response) => {
      state.asked++
      arrived.resolve()
      if (state.answer !== undefined) return state.answer(response)
      response.setHeader("content-type", "application/jwk-set+json").end(JSON.stringify({ keys: state.keys }))
    })
  let server = make()
  const port = yield* listen(server, 0)
  const die = Effect.callback<void>((resume) => {
    server.close(() => resume(Effect.void))
    server.closeAllConnections()
  })
  yield* Effect.addFinalizer(() => server.listening ? die : Effect.void)
  return {
    state,
    die,
    revive: Effect.suspend(() => listen(server = make(), port)),
    /** Waits for the next request. */
    asked: Effect.suspend(() => {
      arrived = Promise.withResolvers<void>()
      return Effect.promise(() => arrived.promise)
    }),
    layer: Jwt.layer({
      keys: { url: `http://127.0.0.1:${port}/jwks`, keep: "1 hour" },
      algorithms: ["EdDSA"],
      issuer,
      audience: "orders"
    }).pipe(Layer.provide(FetchHttpClient.layer))
  }
})

const handler = Auth.middleware()((_message: Envelope) => Effect.asVoid(Auth.Principal))

/** What becomes of a message with this token. */
const settle = (key: { readonly token: string }) =>
  Effect.map(
    Deliveries.run(handler, Deliveries.make({ headers: { authorization: `Bearer ${key.token}` } })),
    ({ outcome }) => outcome._tag
  )

/** A second at a time, so that no reading is overtaken by the clock: whether it comes to that within a cool-down and a timeout. */
const soon = (key: { readonly token: string }, expected: string) =>
  Effect.gen(function*() {
    for (let second = 0; second < 40; second++) {
      if ((yield* settle(key)) === expected) return
      yield* TestClock.adjust("1 seconds")
    }
    assert.fail(`it never came to ${expected}`)
  })

/** A test whose clock stands at the tokens' time, with a server and a verifier that reads its keys. */
const reading = (
  test: (server: Effect.Success<typeof issuerServer>) => Generator<Effect.Effect<unknown, never, Auth.Verifier>, void>
) =>
  Effect.gen(function*() {
    yield* TestClock.setTime(epoch * 1000)
    const server = yield* issuerServer
    yield* Effect.provide(Effect.gen(() => test(server)), server.layer)
  }).pipe(Effect.scoped)

const body = (text: string | Uint8Array, headers: Record<string, string> = {}) => (response: ServerResponse) => {
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value)
  response.end(text)
}

const wrongs: Readonly<Record<string, (response: ServerResponse) => void>> = {
  "answers 500": (response) => void response.writeHead(500).end("{}"),
  "answers 404": (response) => void response.writeHead(404).end(JSON.stringify({ keys: [two.jwk] })),
  "answers 204": (response) => void response.writeHead(204).end(),
  "sends nothing": body(""),
  "sends a page": body("<!doctype html><title>Sign in</title>", { "content-type": "text/html" }),
  "sends bytes that are no text": body(Uint8Array.from([0xff, 0xfe, 0x00])),
  "sends half of a set": body(JSON.stringify({ keys: [two.jwk] }).slice(0, -5)),
  "sends another document": body(JSON.stringify([two.jwk])),
  "sends a set of no keys": body(JSON.stringify({ keys: [1, "two", null] })),
  "sends a proto": body(`{"__proto__":{"keys":[]}}`),
  "sends more than a mebibyte": body(JSON.stringify({ keys: [two.jwk], more: "x".repeat(2 ** 20) })),
  "ends in the middle": (response) => {
    response.writeHead(200, { "content-length": "1000" })
    response.write("{\"keys\":", () => response.destroy())
  },
  "cuts the connection": (response) => void response.destroy(),
  "redirects to itself": (response) => void response.writeHead(302, { location: "/jwks" }).end()
}

describe("a server of keys", () => {
  it.effect("F8 rotates: the new key is found, the old one goes with the next reading", () =>
    reading(function*(server) {
      assert.strictEqual(yield* settle(one), "Ack")
      server.state.keys = [one.jwk, two.jwk]
      // within the cool-down nobody can know: it comes back
      assert.strictEqual(yield* settle(two), "Retry")
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual([yield* settle(two), yield* settle(one)], ["Ack", "Ack"])
      server.state.keys = [two.jwk]
      yield* TestClock.adjust("30 seconds")
      // a stranger has the keys read
      assert.strictEqual(yield* settle(three), "DeadLetter")
      assert.strictEqual(yield* settle(two), "Ack")
      assert.strictEqual(yield* settle(one), "Retry")
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(yield* settle(one), "DeadLetter")
    }))

  it.effect("F8 whatever it sends instead of keys: what is known holds, what is not goes back, nothing is dead-lettered", () =>
    reading(function*(server) {
      assert.strictEqual(yield* settle(one), "Ack")
      server.state.keys = [one.jwk, two.jwk]
      for (const [name, answer] of Object.entries(wrongs)) {
        server.state.answer = answer
        const { asked } = server.state
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(yield* settle(two), "Retry", name)
        assert.strictEqual(yield* settle(one), "Ack", name)
        assert.isAbove(server.state.asked, asked, name)
      }
      server.state.answer = undefined
      yield* soon(two, "Ack")
      assert.strictEqual(yield* settle(one), "Ack")
    }))

  it.effect("F8 hangs before or within its answer: five seconds, and one request for all who wait", () =>
    reading(function*(server) {
      assert.strictEqual(yield* settle(one), "Ack")
      const ways = [() => {}, (response: ServerResponse) => void response.write("{\"keys\":[")]
      for (const answer of ways) {
        server.state.answer = answer
        yield* TestClock.adjust("30 seconds")
        const { asked } = server.state
        const arrived = yield* Effect.forkChild(server.asked, { startImmediately: true })
        const waiting = yield* Effect.forEach(
          Array.from({ length: 10 }),
          () => Effect.forkChild(settle(two), { startImmediately: true })
        )
        yield* Fiber.join(arrived)
        assert.strictEqual(yield* settle(one), "Ack")
        yield* TestClock.adjust("4999 millis")
        assert.isUndefined(waiting[0]!.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        for (const fiber of waiting) assert.strictEqual(yield* Fiber.join(fiber), "Retry")
        assert.strictEqual(server.state.asked, asked + 1)
      }
    }))

  it.effect("F8 redirects: nothing is asked of where it says, and the error says what to do", () =>
    reading(function*(server) {
      assert.strictEqual(yield* settle(one), "Ack")
      let asked = 0
      const other = createServer((_request, response) => {
        asked++
        response.end(JSON.stringify({ keys: [two.jwk] }))
      })
      const port = yield* listen(other, 0)
      for (const code of [301, 302, 303, 307, 308]) {
        server.state.answer = (response) =>
          void response.writeHead(code, { location: `http://127.0.0.1:${port}/keys` }).end()
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(yield* settle(two), "Retry", String(code))
        yield* TestClock.adjust("30 seconds")
        const verifier = yield* Auth.Verifier
        const error = yield* Effect.orDie(Effect.flip(verifier.verify(two.token)))
        assert.include(error.message, `status ${code}, a redirect: correct keys.url`)
      }
      assert.strictEqual(asked, 0)
      other.close()
    }))

  it.effect("F8 H18 unknown ids are refused on HTTP, and go back on a broker, whatever the server of the keys does", () =>
    reading(function*(server) {
      assert.strictEqual(yield* settle(one), "Ack")
      const ask = (key: { readonly token: string }) =>
        Effect.gen(function*() {
          const verifier = yield* Auth.Verifier
          const base = yield* serve(
            Server.route("GET", "/", (request: Request) =>
              Effect.provideService(
                Effect.suspend(() => handler(request)),
                Auth.Verifier,
                verifier
              ))
          )
          const headers = { authorization: `Bearer ${key.token}` }
          return (yield* Effect.promise(() => call(base, "/", { headers }))).status
        }).pipe(Effect.scoped, Effect.orDie)
      // within the cool-down
      assert.deepStrictEqual([yield* ask(two), yield* settle(two)], [401, "Retry"])
      server.state.answer = (response) => void response.writeHead(500).end()
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual([yield* ask(two), yield* settle(two)], [401, "Retry"])
      assert.strictEqual(yield* ask(one), 204)
    }))

  it.effect("F8 dies: its keys hold for as long as they may, then messages go back until it lives again", () =>
    reading(function*(server) {
      assert.strictEqual(yield* settle(one), "Ack")
      yield* server.die
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual([yield* settle(two), yield* settle(one)], ["Retry", "Ack"])
      yield* TestClock.adjust("59 minutes")
      assert.deepStrictEqual([yield* settle(two), yield* settle(one)], ["Retry", "Ack"])
      yield* TestClock.adjust("1 minutes")
      assert.deepStrictEqual([yield* settle(two), yield* settle(one)], ["Retry", "Retry"])
      server.state.keys = [two.jwk]
      yield* server.revive
      yield* soon(two, "Ack")
      yield* soon(one, "DeadLetter")
    }))
})
