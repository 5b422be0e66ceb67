import { assert, describe, it } from "@effect/vitest"
import { Audit, Broker, Health } from "@millrace/core"
import { Dashboard, MonitorRoutes } from "@millrace/dashboard"
import { Monitor } from "@millrace/monitor"
import { Effect, Stream } from "effect"
import { publish, start, state, tokens } from "./support.ts"

const ask = (url: string, token?: string, init: RequestInit = {}) =>
  Effect.promise(async () => {
    const headers = new Headers(init.headers)
    if (token !== undefined) headers.set("authorization", `Bearer ${token}`)
    const response = await fetch(url, { ...init, headers })
    return { status: response.status, headers: response.headers, text: await response.text() }
  })

const json = (url: string, token = tokens.read) => Effect.map(ask(url, token), ({ text }) => JSON.parse(text))

const post = (url: string, body: unknown, token: string = tokens.write, headers: Record<string, string> = {}) =>
  ask(url, token, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body)
  })

const data = [
  "/metrics",
  "/metrics/errors",
  "/metrics/trends",
  "/metrics/insights",
  "/metrics/alerts",
  "/metrics/channels",
  "/metrics/health",
  "/monitor/dead-letters",
  "/monitor/events"
]

describe("monitoring endpoints", () => {
  it.live("H16 no data is answered without the scope, and the page itself holds none", () =>
    Effect.gen(function*() {
      const { url } = yield* start()
      for (const path of data) {
        assert.strictEqual((yield* ask(url + path)).status, 401, path)
        assert.strictEqual((yield* ask(url + path, tokens.none)).status, 403, path)
      }
      for (const path of ["replay", "discard"]) {
        assert.strictEqual((yield* post(`${url}/monitor/dead-letters/${path}`, {}, tokens.read)).status, 403, path)
      }
      const page = yield* ask(`${url}/monitor`)
      assert.strictEqual(page.status, 200)
      assert.include(page.text, "<title>Orders &#38; more</title>")
      assert.match(page.headers.get("content-security-policy") ?? "", /^default-src 'none'; script-src 'self'/)
      assert.notInclude(page.text, "billing")
      const again = yield* ask(`${url}/monitor`, undefined, {
        headers: { "if-none-match": page.headers.get("etag") ?? "" }
      })
      assert.strictEqual(again.status, 304)
    }).pipe(Effect.scoped))

  it.live("H16, F7 errors, trends, insights, alerts, channels, health and metrics are answered", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start()
      yield* publish(context, "first", "second")
      yield* Effect.provideContext(Effect.flatMap(Monitor.Service, (monitor) => monitor.tick), context)
      const errors = yield* json(`${url}/metrics/errors`)
      assert.deepStrictEqual([errors.total, errors.deadLetters], [2, 2])
      const trends = yield* json(`${url}/metrics/trends?hours=3`)
      assert.deepStrictEqual([trends.hours.length, trends.hours.at(-1).errors], [3, 2])
      const insights = yield* json(`${url}/metrics/insights`)
      assert.deepStrictEqual(insights.groups.map(({ count, tag }: { count: number; tag: string }) => [tag, count]), [[
        "SoldOut",
        2
      ]])
      assert.isArray(yield* json(`${url}/metrics/alerts?hours=24`))
      const channels = yield* json(`${url}/metrics/channels`)
      assert.deepStrictEqual(
        channels.map(({ channel, failed }: { channel: string; failed: number }) => [channel, failed]),
        [["orders", 2]]
      )
      const health = yield* ask(`${url}/metrics/health`, tokens.read)
      assert.deepStrictEqual([health.status, JSON.parse(health.text).status], [200, "pass"])
      const metrics = yield* ask(`${url}/metrics`, tokens.read)
      assert.include(metrics.headers.get("content-type") ?? "", "text/plain; version=0.0.4")
      assert.match(metrics.text, /^millrace_messages\{.*millrace_status="failed".*\} 2$/m)
      for (const path of data.slice(0, -1)) {
        const { headers } = yield* ask(url + path, tokens.read)
        assert.strictEqual(headers.get("cache-control"), "no-store", path)
      }
    }).pipe(Effect.scoped))

  it.live("H16 hours outside of 1 to 168 are refused with a problem", () =>
    Effect.gen(function*() {
      const { url } = yield* start()
      for (const hours of ["0", "169", "1.5", "-1", "x", "", "1e2"]) {
        for (const path of ["trends", "alerts"]) {
          const { status, text } = yield* ask(`${url}/metrics/${path}?hours=${hours}`, tokens.read)
          assert.strictEqual(status, 400, hours)
          assert.strictEqual(JSON.parse(text).detail, "hours must be an integer from 1 to 168")
        }
      }
    }).pipe(Effect.scoped))
})

describe("dead letters of the dashboard", () => {
  it.live("H16 letters are shown in groups by kind of failure, with their secrets replaced", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start()
      yield* publish(context, "{\"password\":\"swordfish\",\"id\":1}", "{\"id\":2}")
      const { channels } = yield* json(`${url}/monitor/dead-letters`)
      assert.strictEqual(channels.length, 1)
      const [{ channel, groups, more, open }] = channels
      assert.deepStrictEqual([channel, open, more, groups.length], ["orders.dead-letters", 2, false, 1])
      const [{ count, errorType, group, ids, letters, message }] = groups
      assert.deepStrictEqual([count, errorType, group, ids.length], [2, "SoldOut", "billing", 2])
      assert.match(message, /^item \{number\} is sold out/)
      assert.notInclude(JSON.stringify(channels), "swordfish")
      assert.include(letters[0].body, "\"id\":1")
    }).pipe(Effect.scoped))

  it.live("H16 bodies are left out by choice, and no more letters are read than the limit", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start({ body: "none", letters: 2 })
      yield* publish(context, "k-1", "k-2", "k-3")
      const { channels } = yield* json(`${url}/monitor/dead-letters`)
      assert.deepStrictEqual([channels[0].open, channels[0].more], [2, true])
      assert.notInclude(JSON.stringify(channels), "k-1")
    }).pipe(Effect.scoped))

  it.live("H16, F22 a replay reaches the group that failed, and leaves an audit row with the principal", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start()
      yield* publish(context, "one", "two")
      const ids: ReadonlyArray<string> = (yield* json(`${url}/monitor/dead-letters`)).channels[0].groups[0].ids
      state.isBroken = false
      const asked = { channel: "orders.dead-letters", ids: [ids[1]] }
      const replayed = yield* post(`${url}/monitor/dead-letters/replay`, asked)
      assert.deepStrictEqual(JSON.parse(replayed.text).published, 1)
      while (state.handled.length === 0) yield* Effect.sleep("20 millis")
      assert.deepStrictEqual(state.handled, ["two"])
      const again = yield* post(`${url}/monitor/dead-letters/replay`, { ...asked, ids })
      const { already, published } = JSON.parse(again.text)
      assert.deepStrictEqual([already, published], [1, 1])
      const { rows } = yield* Effect.provideContext(Effect.flatMap(Audit.Store, (store) => store.query()), context)
      assert.deepStrictEqual(rows.map(({ channel, handler, key, status }) => [handler, key, channel, status]), [
        ["dashboard.replay", "grace", "orders.dead-letters", "done"],
        ["dashboard.replay", "grace", "orders.dead-letters", "done"]
      ])
      assert.include(rows[1]!.body ?? "", ids[1]!)
    }).pipe(Effect.scoped))

  it.live("H16, F22 letters are replayed to another channel", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start()
      yield* publish(context, "one")
      const ids = (yield* json(`${url}/monitor/dead-letters`)).channels[0].groups[0].ids
      yield* post(`${url}/monitor/dead-letters/replay`, { channel: "orders.dead-letters", ids, to: "repaired" })
      const broker = yield* Effect.provideContext(Broker.Broker, context)
      const there = yield* Stream.runCollect(broker.browse("repaired"))
      assert.deepStrictEqual(there.map(({ raw }) => new TextDecoder().decode(raw)), ["one"])
    }).pipe(Effect.scoped))

  it.live("H16, F22 a discarded letter is shown no more, and no replay publishes it", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start()
      yield* publish(context, "one", "two")
      const ids = (yield* json(`${url}/monitor/dead-letters`)).channels[0].groups[0].ids
      const asked = { channel: "orders.dead-letters", ids: [ids[0]], reason: "a test order" }
      assert.deepStrictEqual(JSON.parse((yield* post(`${url}/monitor/dead-letters/discard`, asked)).text), {
        discarded: 1
      })
      // the answer is shared for two seconds
      yield* Effect.sleep("2100 millis")
      const { discarded, open } = (yield* json(`${url}/monitor/dead-letters`)).channels[0]
      assert.deepStrictEqual([open, discarded], [1, 1])
      state.isBroken = false
      const { text } = yield* post(`${url}/monitor/dead-letters/replay`, { channel: "orders.dead-letters", ids })
      const counts = JSON.parse(text)
      assert.deepStrictEqual([counts.discarded, counts.published], [1, 1])
    }).pipe(Effect.scoped))

  it.live("H16 wrong actions are refused: other channels, ids, reasons and pages of other sites", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start()
      yield* publish(context, "one")
      const ids = (yield* json(`${url}/monitor/dead-letters`)).channels[0].groups[0].ids
      const channel = "orders.dead-letters"
      const status = (path: string, body: unknown, headers?: Record<string, string>) =>
        Effect.map(post(`${url}/monitor/dead-letters/${path}`, body, tokens.write, headers), (answer) => answer.status)
      assert.strictEqual(yield* status("replay", { channel: "payments.dead-letters", ids }), 404)
      assert.strictEqual(yield* status("replay", { channel, ids: ["no id"] }), 422)
      assert.strictEqual(yield* status("replay", { channel, ids: [] }), 422)
      assert.strictEqual(yield* status("discard", { channel, ids, reason: "" }), 422)
      assert.strictEqual(yield* status("discard", { channel, ids }), 422)
      assert.strictEqual(
        yield* status("discard", { channel, ids, reason: "x" }, { "sec-fetch-site": "cross-site" }),
        400
      )
      assert.strictEqual(yield* status("discard", { channel, ids, reason: "x" }, { "content-type": "text/plain" }), 415)
      const { rows } = yield* Effect.provideContext(Effect.flatMap(Audit.Store, (store) => store.query()), context)
      assert.deepStrictEqual(rows, [])
      assert.strictEqual((yield* json(`${url}/monitor/dead-letters`)).channels[0].open, 1)
    }).pipe(Effect.scoped))
})

describe("the page's stream", () => {
  const open = (url: string) => {
    const controller = new AbortController()
    return Effect.map(
      Effect.promise(() =>
        fetch(`${url}/monitor/events`, {
          headers: { authorization: `Bearer ${tokens.read}` },
          signal: controller.signal
        })
      ),
      (response) => ({ response, close: () => controller.abort() })
    )
  }

  it.live("H16 documents follow each other, and the stream ends as the program begins to end", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start()
      const { response } = yield* open(url)
      assert.strictEqual(response.headers.get("content-type"), "text/event-stream")
      const texts: Array<string> = []
      const reading = response.body!.pipeThrough(new TextDecoderStream()).pipeTo(
        new WritableStream({ write: (chunk) => void texts.push(chunk) })
      )
      while (texts.join("").split("\n\n").length < 3) yield* Effect.sleep("20 millis")
      yield* Effect.provideContext(Health.draining, context)
      yield* Effect.promise(() => reading)
      const documents = texts.join("").split("\n\n").filter((each) => each !== "").map((each) =>
        JSON.parse(/^data: (.*)$/m.exec(each)![1]!)
      )
      const [first, last] = [documents[0], documents.at(-1)]
      assert.deepStrictEqual([first.health.phase, last.health.phase], ["started", "draining"])
      const [{ channel, group, lag, name, state: running }] = first.subscriptions
      assert.deepStrictEqual([name, channel, group, running, lag], ["orders", "orders", "billing", "running", 0])
    }).pipe(Effect.scoped))

  it.live("H16 there are no more streams than the limit, and a closed page makes room", () =>
    Effect.gen(function*() {
      const { url } = yield* start({ streams: 2 })
      const first = yield* open(url)
      const second = yield* open(url)
      const third = yield* open(url)
      assert.deepStrictEqual([first, second, third].map(({ response }) => response.status), [200, 200, 503])
      first.close()
      let status = 503
      while (status === 503) {
        yield* Effect.sleep("50 millis")
        const next = yield* open(url)
        status = next.response.status
        next.close()
      }
      assert.strictEqual(status, 200)
      second.close()
    }).pipe(Effect.scoped))
})

describe("options of the dashboard", () => {
  it("H16 each is checked when the routes are made", () => {
    const through = Dashboard.anonymous
    assert.throws(() => Dashboard.make({ through, every: "50 millis" }), RangeError, "every")
    assert.throws(() => Dashboard.make({ through, streams: 0 }), RangeError, "streams")
    assert.throws(() => Dashboard.make({ through, letters: 1.5 }), RangeError, "letters")
    assert.throws(() => Dashboard.make({ through, body: { characters: 0 } }), RangeError, "body.characters")
    assert.throws(() => MonitorRoutes.make({ through, cache: -1 }), RangeError, "cache")
    assert.strictEqual(Dashboard.make({ through }).length, 6)
  })
})
