import {
  Auth,
  Channel,
  Decode,
  Eager,
  type Envelope,
  Idempotency,
  MemoryBroker,
  type Message,
  Order,
  Outcome,
  Outgoing,
  Publisher,
  Retry,
  Settlement,
  Stack,
  Subscription
} from "@millrace/core"
import { Body, Client, Server, Webhook } from "@millrace/http"
import { Hmac } from "@millrace/security"
import { type Deliveries, MiddlewareLaws } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Exit, Layer, pipe, Redacted, Schema } from "effect"
import { FetchHttpClient, HttpBody, HttpClient, HttpClientRequest, HttpRouter } from "effect/http"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { createHmac, randomBytes } from "node:crypto"
import { inspect } from "node:util"
import { deliver, runChain } from "../core/support.ts"
import { call, serveWith } from "../http/support.ts"
import { epoch, standing } from "./support.ts"

const utf8 = new TextEncoder()

/** A secret and its bytes. */
const secretOf = (bytes: Uint8Array = randomBytes(24)) => ({
  bytes,
  secret: Redacted.make(`whsec_${Buffer.from(bytes).toString("base64")}`)
})
const [one, two] = [secretOf(), secretOf()]
const keys: Hmac.Keys = [{ name: "partner", secret: one.secret, scopes: ["orders:write"] }]

/** The specification, word for word: base64 of the HMAC-SHA256 of id, full stop, time, full stop, bytes. */
const reference = (bytes: Uint8Array, id: string, time: number | string, body: Uint8Array): string => {
  const mac = createHmac("sha256", Buffer.from(bytes))
  mac.update(Buffer.concat([Buffer.from(`${id}.${time}.`, "utf8"), body]))
  return `v1,${Buffer.from(mac.digest("hex"), "hex").toString("base64")}`
}

interface Parts {
  readonly id?: string
  readonly time?: number | string
  readonly body?: Uint8Array
  readonly bytes?: Uint8Array
  readonly signature?: string
}

const body = utf8.encode(`{"test": 2432232314}`)

const headersOf = (parts: Parts = {}) => {
  const { id = "msg_1", time = epoch } = parts
  return {
    [Hmac.names.id]: id,
    [Hmac.names.timestamp]: `${time}`,
    [Hmac.names.signature]: parts.signature ?? reference(parts.bytes ?? one.bytes, id, time, parts.body ?? body)
  }
}

const signed = (parts: Parts = {}, more: Deliveries.Options = {}) =>
  deliver({ body: parts.body ?? body, headers: headersOf(parts), ...more })

const subject = (_message: Envelope) => Effect.map(Auth.Principal, (principal) => principal.subject)

/** The subject, or why it was refused. */
const said = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return String(exit.value)
  const [reason] = exit.cause.reasons
  const error = reason?._tag === "Fail" ? reason.error : undefined
  return error instanceof Auth.Unauthorized
    ? `${error.reason}${error.claim === undefined ? "" : ` ${error.claim}`}`
    : String(error)
}

const repeatable = Hmac.verify({ keys, replay: "allow" })(subject)
const verdict = (
  message: Deliveries.Carrier & Hmac.Signed,
  handler: (message: Deliveries.Carrier & Hmac.Signed) => Effect.Effect<unknown, unknown> = repeatable,
  now = epoch * 1000
) => Effect.runSync(Effect.map(Effect.provideService(runChain(handler, message), Clock.Clock, standing(now)), said))

describe("signatures", () => {
  it("F8 the vector that the specification's own libraries are tested with", () => {
    const secret = Redacted.make("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    const headers = {
      "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
      "webhook-timestamp": "1614265330",
      "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    }
    for (const each of [secret, Redacted.make(Redacted.value(secret).slice(6))]) {
      const handler = Hmac.verify({ keys: [{ name: "svix", secret: each }], replay: "allow" })(subject)
      assert.strictEqual(verdict(deliver({ body, headers }), handler, 1_614_265_330_000), "svix")
    }
    const sign = Hmac.sign({ keys: [{ name: "svix", secret }] })((message: Envelope) =>
      Exit.succeed({ ...message.headers })
    )
    const outgoing = new Outgoing("c", body, undefined, { "message-id": headers["webhook-id"] })
    const exit = Effect.runSync(
      Effect.provideService(runChain(sign, outgoing), Clock.Clock, standing(1_614_265_330_999))
    )
    assert.deepStrictEqual(exit, Exit.succeed({ "message-id": headers["webhook-id"], ...headers }))
  })

  it("F8 what is signed here verifies by the specification, and the other way round", () => {
    fc.assert(fc.property(
      fc.uint8Array({ minLength: 24, maxLength: 64 }),
      fc.uint8Array({ maxLength: 300 }),
      fc.string({ unit: fc.constantFrom(..."abz09_-~!+/="), minLength: 1, maxLength: 256 }),
      fc.integer({ min: 0, max: 4_000_000_000 }),
      (bytes, payload, id, time) => {
        const key = { name: "k", secret: secretOf(bytes).secret }
        const write = Hmac.sign({ keys: [key] })((message: Envelope) => Exit.succeed(message.headers))
        const outgoing = new Outgoing("c", payload, undefined, { "webhook-id": id })
        const made = Effect.runSync(Effect.provideService(write(outgoing), Clock.Clock, standing(time * 1000 + 999)))
        assert.strictEqual(made["webhook-signature"], reference(bytes, id, time, payload))
        assert.strictEqual(made["webhook-timestamp"], `${time}`)
        const read = Hmac.verify({ keys: [key], replay: "allow" })(subject)
        assert.strictEqual(verdict(signed({ bytes, id, time, body: payload }), read, time * 1000), "k")
      }
    ))
  })

  it("F8 a message that was changed anywhere is refused", () => {
    const whole = { ...headersOf(), body: Buffer.from(body).toString("latin1") }
    const names = Object.keys(whole) as Array<keyof typeof whole>
    fc.assert(
      fc.property(
        fc.constantFrom(...names),
        fc.nat(),
        fc.constantFrom(..."0aZ+/=., \t\u0141é\0"),
        fc.constantFrom("replace", "insert", "remove"),
        (name, where, letter, how) => {
          const text = whole[name]!
          const at = where % (text.length + 1)
          const changed = text.slice(0, at) + (how === "remove" ? "" : letter) +
            text.slice(how === "insert" ? at : at + 1)
          fc.pre(changed !== text)
          const { body: other, ...headers } = { ...whole, [name]: changed }
          const found = verdict(deliver({ headers, body: new Uint8Array(Buffer.from(other!, "utf8")) }))
          // a list of signatures may end in what is none
          if (name === "webhook-signature" && changed.split(" ").includes(text)) assert.strictEqual(found, "partner")
          else assert.notStrictEqual(found, "partner")
        }
      ),
      { numRuns: 1000 }
    )
  })

  it("F8 each part that is missing or of a wrong form says which, and nothing throws", () => {
    const good = headersOf()
    const many = (count: number) => Array.from({ length: count }, () => reference(two.bytes, "msg_1", epoch, body))
    const cases: ReadonlyArray<readonly [Record<string, string | undefined>, string]> = [
      [{ "webhook-id": undefined }, "missing webhook-id"],
      [{ "webhook-timestamp": undefined }, "missing webhook-timestamp"],
      [{ "webhook-signature": undefined }, "missing webhook-signature"],
      [{ "webhook-id": "" }, "malformed webhook-id"],
      // a full stop would let the end of the id pass for the time
      [{ "webhook-id": "msg.1" }, "malformed webhook-id"],
      [{ "webhook-id": "x".repeat(257) }, "malformed webhook-id"],
      ...[
        "",
        " 1700000000",
        "1700000000 ",
        "+1700000000",
        "01700000000",
        "1.7e9",
        "1700000000.0",
        "0x6553f100",
        "-1",
        "hello"
      ]
        .map((time) => [{ "webhook-timestamp": time }, "malformed webhook-timestamp"] as const),
      [{ "webhook-signature": "" }, "unsupported webhook-signature"],
      [{ "webhook-signature": good["webhook-signature"]!.slice(3) }, "unsupported webhook-signature"],
      [{ "webhook-signature": good["webhook-signature"]!.replace("v1,", "v1a,") }, "unsupported webhook-signature"],
      [{ "webhook-signature": good["webhook-signature"]!.replace("v1,", "v2,") }, "unsupported webhook-signature"],
      [{ "webhook-signature": "v1," }, "signature"],
      [{ "webhook-signature": "v1,dawfeoifkpqwoekfpqoekf" }, "signature"],
      [{ "webhook-signature": good["webhook-signature"]!.replace("=", "") }, "signature"],
      [{ "webhook-signature": `v1,${"A".repeat(43)}=` }, "signature"],
      [{ "webhook-signature": [...many(16), good["webhook-signature"]].join(" ") }, "oversized webhook-signature"],
      [{ "webhook-signature": `v1,${"A".repeat(4096)}` }, "oversized webhook-signature"],
      [{ "webhook-signature": [...many(15), good["webhook-signature"]].join(" ") }, "partner"],
      [{ "webhook-signature": ["v1a,x", ...many(2), good["webhook-signature"], "v2,"].join(" ") }, "partner"]
    ]
    for (const [change, answer] of cases) {
      const headers = Object.fromEntries(
        Object.entries({ ...good, ...change }).filter((entry): entry is [string, string] => entry[1] !== undefined)
      )
      const message = deliver({ body, headers })
      assert.strictEqual(verdict(message), answer, inspect(change))
    }
    assert.strictEqual(verdict(signed({ bytes: two.bytes })), "signature")
    // letters whose low bytes are those of the signature
    const wide = good["webhook-signature"]!.replace(
      /[A-Z]/g,
      (letter) => String.fromCharCode(letter.charCodeAt(0) + 256)
    )
    assert.strictEqual(verdict(deliver({ body, headers: { ...good, "webhook-signature": wide } })), "signature")
  })

  it("F8 five minutes to both sides, exact to the second", () => {
    for (
      const [offset, answer] of [
        [-300_001, "notYetValid webhook-timestamp"],
        [-300_000, "partner"],
        [0, "partner"],
        [300_999, "partner"],
        [301_000, "expired webhook-timestamp"]
      ] as const
    ) assert.strictEqual(verdict(signed(), repeatable, epoch * 1000 + offset), answer, String(offset))
    const day = Hmac.verify({ keys, replay: "allow", tolerance: "1 day" })(subject)
    assert.strictEqual(verdict(signed(), day, (epoch + 86_400) * 1000), "partner")
    assert.strictEqual(verdict(signed(), day, (epoch + 86_401) * 1000), "expired webhook-timestamp")
  })

  it("F8 a secret is rotated without a refused message: both sign, then both verify, then the old one goes", () => {
    const [old, fresh] = [{ name: "partner", secret: one.secret }, { name: "partner", secret: two.secret }] as const
    const sent = (...keys: [Hmac.Key, ...Array<Hmac.Key>]) => {
      const write = Hmac.sign({ keys })((message: Outgoing<Uint8Array>) => Exit.succeed(message.headers))
      const headers = Effect.runSync(
        Effect.provideService(write(new Outgoing("c", body, undefined, {})), Clock.Clock, standing(epoch * 1000))
      )
      return deliver({ body, headers: { ...headers } })
    }
    const by = (...keys: [Hmac.Key, ...Array<Hmac.Key>]) => Hmac.verify({ keys, replay: "allow" })(subject)
    const stages = [
      [sent(old), by(old)],
      [sent(fresh, old), by(old)],
      [sent(fresh, old), by(fresh, old)],
      [sent(fresh), by(fresh, old)],
      [sent(fresh), by(fresh)]
    ] as const
    for (const [message, handler] of stages) assert.strictEqual(verdict(message, handler), "partner")
    assert.strictEqual(verdict(sent(old), by(fresh)), "signature")
  })
})

describe("principals", () => {
  it("F8 the name of the key is the subject, its scopes are the principal's, and are asked for as any other's", () => {
    const both = [...keys, { name: "other", secret: two.secret }] as const
    const write = pipe(subject, Auth.scopes("orders:write"), Hmac.verify({ keys: both, replay: "allow" }))
    assert.strictEqual(verdict(signed(), write), "partner")
    const exit = Effect.runSync(
      Effect.provideService(runChain(write, signed({ bytes: two.bytes })), Clock.Clock, standing(epoch * 1000))
    )
    assert.deepStrictEqual(exit, Exit.fail(new Auth.Forbidden({ subject: "other", missing: ["orders:write"] })))
    assert.strictEqual(Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag, "DeadLetter")
    const all = Hmac.verify({ keys, replay: "allow" })((_message: Envelope) => Auth.Principal)
    const principal = Effect.runSync(Effect.provideService(all(signed()), Clock.Clock, standing(epoch * 1000)))
    assert.deepStrictEqual(principal, {
      subject: "partner",
      issuer: undefined,
      scopes: ["orders:write"],
      claims: { sub: "partner" }
    })
    assert.throws(() => (principal.scopes as Array<string>).push("admin"), TypeError)
  })
})

describe("the replay window", () => {
  const once = Hmac.verify({ keys })(subject)
  /** At `epoch`, over a store of its own. */
  const over = (program: Effect.Effect<void, unknown, Idempotency.Store>, capacity?: number) =>
    Effect.andThen(TestClock.setTime(epoch * 1000), Effect.provide(program, Idempotency.layerMemory({ capacity })))
  const send = (message: Deliveries.Carrier & Hmac.Signed, handler = once) =>
    Effect.map(runChain(handler, message), said)

  it.effect("F8 a copy is refused for as long as its time would be taken; what is signed again is not one", () =>
    over(Effect.gen(function*() {
      const copy = () => new Outgoing("c", body, undefined, headersOf({ time: epoch + 300 }))
      assert.strictEqual(yield* send(copy()), "partner")
      for (const at of [0, 300, 599]) {
        yield* TestClock.setTime((epoch + at) * 1000)
        assert.strictEqual(yield* send(copy()), "replayed", String(at))
      }
      assert.strictEqual(yield* send(new Outgoing("c", body, undefined, headersOf({ time: epoch + 599 }))), "partner")
      yield* TestClock.setTime((epoch + 601) * 1000 - 1)
      assert.strictEqual(yield* send(copy()), "replayed")
      yield* TestClock.setTime((epoch + 601) * 1000)
      assert.strictEqual(yield* send(copy()), "expired webhook-timestamp")
    })))

  it.effect("F8 a message that the broker delivers again is let pass, a copy of it elsewhere is refused", () =>
    over(Effect.gen(function*() {
      const at = (position: number, more: Deliveries.Options = {}) => signed({}, { position, ...more })
      assert.strictEqual(yield* send(at(7)), "partner")
      // its acknowledgement was lost
      assert.strictEqual(yield* send(at(7, { attempt: 2 })), "partner")
      assert.strictEqual(yield* send(at(8)), "replayed")
      assert.strictEqual(yield* send(at(7, { partition: 1 })), "replayed")
      assert.strictEqual(yield* send(at(7, { channel: "refunds" })), "replayed")
      // another group handles each message once, too
      assert.strictEqual(yield* send(at(9, { group: "audit" })), "partner")
    })))

  it.effect("F8 what failed, was given back or interrupted may come again from anywhere, and a crash from its own place", () =>
    over(Effect.gen(function*() {
      const ends: ReadonlyArray<readonly [string, Effect.Effect<unknown, unknown>, boolean]> = [
        ["fails", Effect.fail("no"), true],
        ["dies", Effect.die("no"), true],
        ["is interrupted", Effect.interrupt, true],
        ["is to be retried", Effect.succeed(Outcome.Retry()), true],
        ["is released", Effect.succeed(Outcome.Release), true],
        ["is dead-lettered", Effect.succeed(Outcome.DeadLetter("no")), true],
        ["is acknowledged", Effect.void, false],
        ["is rejected", Effect.succeed(Outcome.Reject("no")), false]
      ]
      for (const [name, end, again] of ends) {
        const parts = { id: name.replaceAll(" ", "_") }
        yield* runChain(Hmac.verify({ keys })(() => end), signed(parts, { position: 1 }))
        assert.strictEqual(yield* send(signed(parts, { position: 2 })), again ? "partner" : "replayed", name)
      }
      // the process dies in the handler: no hook runs
      const lost = signed({ id: "lost" }, { position: 1 })
      yield* once(lost)
      assert.strictEqual(yield* send(signed({ id: "lost" }, { position: 2 })), "replayed")
      assert.strictEqual(yield* send(signed({ id: "lost" }, { position: 1 })), "partner")
    })))

  it.effect("F8 of many copies at the same time one passes", () =>
    over(Effect.gen(function*() {
      const all = yield* Effect.forEach(
        Array.from({ length: 50 }, (_, position) => signed({}, { position })),
        (message) =>
          send(message, Hmac.verify({ keys })((each: Envelope) => Effect.andThen(Effect.yieldNow, subject(each)))),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(all.filter((each) => each === "partner").length, 1)
      assert.strictEqual(all.filter((each) => each === "replayed").length, 49)
    })))

  it.effect("F8 a forged message takes no place in the store, and a store that is down sends back", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(epoch * 1000)
      let asked = 0
      const unavailable = new Idempotency.IdempotencyUnavailable({ message: "down" })
      const broken = Layer.succeed(Idempotency.Store, {
        claim: () => {
          asked++
          return Effect.fail(unavailable)
        },
        complete: () => Effect.fail(unavailable),
        extend: () => Effect.fail(unavailable),
        release: () => Effect.fail(unavailable)
      })
      const [forged, genuine] = yield* Effect.provide(
        Effect.all([runChain(once, signed({ bytes: two.bytes })), runChain(once, signed())]),
        broken
      )
      assert.strictEqual(asked, 1)
      const outcome = (exit: Exit.Exit<unknown, unknown>) =>
        Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag
      assert.deepStrictEqual([said(forged), outcome(forged), outcome(genuine)], ["signature", "DeadLetter", "Retry"])
      assert.isTrue(Exit.isFailure(genuine) && inspect(genuine, { depth: 5 }).includes("AuthUnavailable"))
    }))

  it("F8 F16 an answer that is there at once is used at once; orders that would replay are refused when built", () => {
    const quick = Hmac.verify({ keys, replay: "allow" })((_message: Envelope) => Exit.succeed("done"))
    const done = Effect.runSync(
      Effect.provideService(Effect.sync(() => Eager.isDone(quick(signed()))), Clock.Clock, standing(epoch * 1000))
    )
    assert.isTrue(done)
    const wrong = (target: object) => Order.violations(target).length
    const quiet = (_message: Envelope) => Effect.void
    const failing = (_message: Hmac.Signed) => Effect.fail("no")
    assert.strictEqual(wrong(pipe(quiet, Idempotency.middleware(), Hmac.verify({ keys }))), 0)
    assert.strictEqual(wrong(pipe(quiet, Hmac.verify({ keys }), Idempotency.middleware())), 1)
    assert.strictEqual(wrong(pipe(quiet, Hmac.verify({ keys }), Retry.middleware())), 1)
    assert.strictEqual(wrong(pipe(quiet, Hmac.verify({ keys, replay: "allow" }), Retry.middleware())), 0)
    assert.strictEqual(wrong(pipe(failing, Hmac.sign({ keys }), Retry.middleware())), 0)
    assert.strictEqual(
      wrong(pipe(failing, Retry.middleware(), Hmac.sign({ keys }))),
      1
    )
  })
})

describe("on brokers and HTTP", () => {
  const Orders = Channel.make("orders", { payload: Schema.Struct({ id: Schema.String }) })

  it.effect("F8 X1 what a publisher signs, alone or with others, a consumer verifies", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const all = Deferred.makeUnsafe<void>()
      const subscription = Subscription.make(
        Channel.bytes("orders"),
        { group: "g", name: "n" },
        pipe(
          (message: Message<Uint8Array>) =>
            Effect.map(Auth.Principal, (principal) => {
              seen.push(`${principal.subject} ${new TextDecoder().decode(message.payload)}`)
              if (seen.length === 3) Deferred.doneUnsafe(all, Exit.void)
            }),
          Hmac.verify({ keys })
        )
      )
      yield* Layer.build(Subscription.layer(subscription))
      const publisher = Publisher.make(Orders, Hmac.signChannel(Orders, { keys }))
      yield* publisher.publish({ id: "1" })
      yield* publisher.publishAll([{ id: "2" }, { id: "3" }])
      yield* Deferred.await(all)
      assert.deepStrictEqual(seen, [`partner {"id":"1"}`, `partner {"id":"2"}`, `partner {"id":"3"}`])
    }).pipe(Effect.scoped, Effect.provide(Layer.mergeAll(MemoryBroker.layer(), Idempotency.layerMemory()))))

  it.live("F8 X1 what a client signs a webhook verifies before it decodes; copies and forgeries are answered alike", () =>
    Effect.gen(function*() {
      const published: Array<string> = []
      const publisher = {
        channel: "orders",
        publish: (order: { readonly id: string }) => Effect.sync(() => void published.push(order.id)),
        publishAll: () => Effect.void
      }
      const route = Server.route(
        "POST",
        "/hooks",
        Webhook.handler(Orders, { publisher, verify: Hmac.verifier({ keys }) })
      )
      const base = yield* serveWith(Server.layer(route).pipe(HttpRouter.provideRequest(Idempotency.layerMemory())))
      const sent: Array<Record<string, string>> = []
      const client = Client.make(
        yield* HttpClient.HttpClient,
        (next) =>
          pipe((each: Client.Call) => {
            sent.push({ ...each.headers })
            return next(each)
          }, Hmac.signRequest({ keys }))
      )
      const post = (order: unknown) =>
        client.execute(HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post(`${base}/hooks`), order))
      const answer = yield* post({ id: "o-1" })
      assert.strictEqual(answer.status, 202)
      assert.deepStrictEqual(published, ["o-1"])
      const [{ "content-length": _, ...headers } = {}] = sent
      const raw = (body: string, more: Record<string, string> = {}) =>
        Effect.promise(() =>
          call(base, "/hooks", {
            method: "POST",
            body,
            headers: { ...headers, "content-type": "application/json", ...more }
          })
        )
      const refused = yield* Effect.all([
        raw(`{"id":"o-1"}`),
        raw(`{"id":"o-2"}`),
        raw("no JSON"),
        raw(`{"id":"o-1"}`, { "webhook-timestamp": "1" }),
        raw(`{"id":"o-1"}`, { "webhook-id": "another" }),
        raw(`{"id":"o-1"}`, { "webhook-signature": "" })
      ])
      const shown = refused.map(({ json, status }) => {
        const { requestId: _, ...problem } = json()
        return JSON.stringify([status, problem])
      })
      assert.deepStrictEqual(
        Array.from(new Set(shown)),
        [`[401,{"type":"about:blank","title":"Unauthorized","status":401,"failure":"auth"}]`]
      )
      assert.deepStrictEqual(published, ["o-1"])
      // signed, and no order: its signature is given back, since nothing was done
      const wrong = yield* Effect.flip(post({ id: 1 }))
      assert.strictEqual(wrong._tag === "StatusFailed" && wrong.status, 422)
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("F8 X1 the middleware of a consumer guards a route of bytes unchanged, and stands outside Decode by its type", () =>
    Effect.gen(function*() {
      const guard = Hmac.verify({ keys, tolerance: "1 day" })
      const route = Server.route("POST", "/", pipe(subject, guard, Body.bytes()))
      const base = yield* serveWith(Server.layer(route).pipe(HttpRouter.provideRequest(Idempotency.layerMemory())))
      const time = Math.floor((yield* Clock.currentTimeMillis) / 1000)
      const send = (headers: Record<string, string>) =>
        Effect.map(
          Effect.promise(() => call(base, "/", { method: "POST", headers, body })),
          ({ status, text }) => `${status} ${status === 200 ? text : ""}`
        )
      assert.strictEqual(yield* send(headersOf({ time })), `200 "partner"`)
      assert.strictEqual(yield* send(headersOf({ time })), "401 ")
      assert.strictEqual(yield* send(headersOf({ time, id: "msg_2" })), `200 "partner"`)
      assert.strictEqual(yield* send(headersOf({ time, id: "msg_3", bytes: two.bytes })), "401 ")
      const stack = Stack.start().use(guard).use(Decode.middleware(Orders))
      const decoded = Stack.start().use(Decode.middleware(Orders))
      // @ts-expect-error what was signed are the bytes
      const wrong = () => decoded.use(guard)
      const handler = stack.handle((message) =>
        Effect.map(Auth.Principal, ({ subject }) => subject + message.payload.id)
      )
      const order = utf8.encode(`{"id":"7"}`)
      const exit = yield* runChain(handler, signed({ time, body: order })).pipe(
        Effect.provide(Idempotency.layerMemory())
      )
      assert.deepStrictEqual([exit, typeof wrong], [Exit.succeed("partner7"), "function"])
    }))

  it.effect("F8 a body that is no text and no bytes is not sent unsigned", () =>
    Effect.gen(function*() {
      let sent = 0
      const next = (_call: Hmac.Requested) => Effect.sync(() => sent++)
      const client = Hmac.signRequest({ keys })(next)
      const callOf = (body: HttpBody.HttpBody) => ({
        ...new Outgoing("POST x", undefined, undefined, {}),
        request: HttpClientRequest.setBody(HttpClientRequest.post("https://x.example"), body)
      })
      const form = yield* Effect.exit(client(callOf(HttpBody.formData(new FormData())) as never))
      assert.deepStrictEqual(form, Exit.fail(new Hmac.Unsignable()))
      assert.strictEqual(sent, 0)
    }))
})

describe("options", () => {
  it("F8 what is out of range is refused when it is built, and no secret is quoted", () => {
    const secret = (text: string) => [{ name: "n", secret: Redacted.make(text) }] as const
    const wrong: ReadonlyArray<readonly [object, string]> = [
      [{ keys: [] }, "Hmac: keys must be 1 to 16, got 0"],
      [{ keys: Array.from({ length: 17 }, () => keys[0]) }, "Hmac: keys must be 1 to 16, got 17"],
      [{ keys: [{ ...keys[0], name: "" }] }, "Hmac: name must be a text"],
      [{ keys: secret("my own secret!") }, "Hmac: secret must be whsec_ and base64, got something else"],
      [{ keys: secret("whsec_") }, "Hmac: secret must have 24 to 64 bytes, got 0"],
      [
        { keys: secret(`whsec_${Buffer.alloc(23).toString("base64")}`) },
        "Hmac: secret must have 24 to 64 bytes, got 23"
      ],
      [
        { keys: secret(`whsec_${Buffer.alloc(65).toString("base64")}`) },
        "Hmac: secret must have 24 to 64 bytes, got 65"
      ],
      [{ keys, tolerance: 0 }, "Hmac: tolerance must be a duration of whole seconds from 1"],
      [{ keys, tolerance: "1500 millis" }, "Hmac: tolerance must be a duration of whole seconds from 1"]
    ]
    for (const [each, message] of wrong) {
      assert.throws(() => Hmac.verify(each as Hmac.Options), RangeError, message)
    }
    const made = Effect.runSync(Effect.all([Hmac.generate, Hmac.generate]))
    assert.match(Redacted.value(made[0]), /^whsec_[A-Za-z0-9+/]{43}=$/)
    assert.notStrictEqual(Redacted.value(made[0]), Redacted.value(made[1]))
    assert.doesNotThrow(() => Hmac.verify({ keys: [{ name: "n", secret: made[0] }] }))
  })
})

// each message has its own id, as a law may run the same handler on several
let last = 0
const lawful = () => signed({ id: `law_${++last}`, time: 0 })
// the suite lets virtual time pass
const long = { keys, tolerance: "365 days" } as const
MiddlewareLaws.suite("Hmac.verify", () => Hmac.verify(long), { message: lawful, layer: Idempotency.layerMemory() })
MiddlewareLaws.suite("Hmac.verify that allows replays", () => Hmac.verify({ ...long, replay: "allow" }), {
  message: lawful
})
MiddlewareLaws.suite("Hmac.sign", () => Hmac.sign({ keys }), {
  message: () => new Outgoing("orders", body, undefined, {}).fresh()
})
