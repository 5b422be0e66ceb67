import { Effect, Redacted } from "effect"
import { SignJWT, UnsecuredJWT } from "jose"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { request as nodeRequest } from "node:http"
import { connect } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import * as Tokens from "../../examples/05-guarded-api/tokens.ts"
import { root, run } from "../repo/workspace.ts"

const main = "examples/05-guarded-api/main.ts"
const secret = "a secret of this test, that nobody knows"
const iban = "DE89370400440532013000"

const issue = (subject: string, by = secret): Promise<string> =>
  Effect.runPromise(Tokens.issue(Redacted.make(by), subject))

interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  readonly body: Record<string, unknown>
}

let child: ChildProcess
let base = ""
let output = ""
const tokens = new Map<string, string>()

beforeAll(async () => {
  child = spawn(process.execPath, [main], {
    cwd: root,
    env: {
      ...process.env,
      PORT: "0",
      TOKEN_SECRET: secret,
      TRUSTED_PROXIES: "127.0.0.0/8, ::1",
      ADDRESS_LIMIT: "100",
      USER_LIMIT: "60"
    }
  })
  child.stdout?.on("data", (chunk) => output += chunk)
  child.stderr?.on("data", (chunk) => output += chunk)
  for (;;) {
    const found = /Listening at (http:\S+)/.exec(output)?.[1]
    if (found !== undefined) {
      base = found
      return
    }
    if (child.exitCode !== null) throw new Error(`The example has ended:\n${output}`)
    await sleep(50)
  }
}, 30_000)

afterAll(() => void child.kill("SIGKILL"))

let address = 0

/** Each test comes from an address of its own, as the proxy in front says. */
const client = () => {
  const from = `203.0.113.${++address}`
  return async (
    method: string,
    path: string,
    options: {
      readonly as?: string
      readonly token?: string
      readonly key?: string
      readonly body?: unknown
      readonly headers?: Record<string, string>
    } = {}
  ): Promise<Answer> => {
    const { as, body, headers, key } = options
    if (as !== undefined && !tokens.has(as)) tokens.set(as, await issue(as))
    const token = options.token ?? (as === undefined ? undefined : tokens.get(as))
    const response = await fetch(base + path, {
      method,
      headers: {
        "x-forwarded-for": from,
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(key === undefined ? {} : { "idempotency-key": key }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers
      },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) })
    })
    const text = await response.text()
    return {
      status: response.status,
      headers: response.headers,
      text,
      body: text.startsWith("{") ? JSON.parse(text) as Record<string, unknown> : {}
    }
  }
}

describe("guarded API", () => {
  it("W4 duplicates that come at once make one transfer, and a key that is used again for another is refused", async () => {
    const ask = client()
    const transfer = () => ask("POST", "/transfers", { as: "ada", key: `"d1"`, body: { to: "bob", amount: 10, iban } })
    const answers = await Promise.all(Array.from({ length: 20 }, transfer))
    assert.strictEqual(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size, 1)
    assert.strictEqual(answers[0]!.status, 201)
    assert.strictEqual(answers.filter(({ headers }) => headers.get("idempotent-replayed") === "true").length, 19)
    assert.strictEqual(new Set(answers.map(({ headers }) => headers.get("location"))).size, 1)
    const found = await ask("GET", answers[0]!.headers.get("location")!, { as: "ada" })
    assert.deepStrictEqual(found.body, answers[0]!.body)
    // another's transfer is not there
    assert.strictEqual((await ask("GET", answers[0]!.headers.get("location")!, { as: "bob" })).status, 404)
    const other = await ask("POST", "/transfers", { as: "ada", key: `"d1"`, body: { to: "bob", amount: 11 } })
    assert.deepStrictEqual(
      [other.status, other.body["type"]],
      [422, "urn:millrace:problem:idempotency-key-reused"]
    )
    assert.strictEqual((await ask("POST", "/transfers", { as: "ada", body: { to: "bob", amount: 1 } })).status, 400)
    // the same key of another caller is another transfer
    const bob = await ask("POST", "/transfers", { as: "bob", key: `"d1"`, body: { to: "bob", amount: 10, iban } })
    assert.deepStrictEqual([bob.status, bob.headers.get("idempotent-replayed")], [201, null])
  })

  it("W4 H19 a refusal that was decided is repeated as it was", async () => {
    const ask = client()
    for (
      const [to, amount, status] of [["blocked-bob", 1, 422], ["bob", 999_999, 422]] as const
    ) {
      const send = () => ask("POST", "/transfers", { as: "carl", key: `r-${to}`, body: { to, amount } })
      const [first, second] = [await send(), await send()]
      assert.deepStrictEqual([first.status, second.status], [status, status])
      assert.deepStrictEqual([second.text, second.headers.get("idempotent-replayed")], [first.text, "true"])
    }
  })

  it("F8 W6 forged tokens are refused before anything runs, and a flood of them is a flood", async () => {
    const ask = client()
    const claims = { scope: Tokens.scope, iss: "https://accounts.example", aud: "transfers", sub: "ada" }
    const sign = (extra: object, by = secret) =>
      new SignJWT({ ...claims, exp: Math.floor(Date.now() / 1000) + 600, ...extra }).setProtectedHeader({
        alg: "HS256"
      })
        .sign(new TextEncoder().encode(by))
    const forged: ReadonlyArray<readonly [string, number]> = [
      [await issue("ada", "another secret, as long as the right one"), 401],
      [new UnsecuredJWT({ ...claims, exp: Math.floor(Date.now() / 1000) + 600 }).encode(), 401],
      [await sign({ exp: Math.floor(Date.now() / 1000) - 600 }), 401],
      [await sign({ aud: "orders" }), 401],
      [await sign({ iss: "https://elsewhere.example" }), 401],
      [`${(await sign({})).slice(0, -4)}AAAA`, 401],
      ["x".repeat(9000), 401],
      [await sign({ scope: "transfers:read" }), 403]
    ]
    for (const [token, status] of forged) {
      const answer = await ask("POST", "/transfers", { token, key: "f", body: { to: "bob", amount: 1 } })
      assert.strictEqual(answer.status, status, token.slice(0, 40))
      assert.strictEqual(answer.headers.get("content-type"), "application/problem+json")
      assert.notInclude(answer.text, token.slice(0, 40))
    }
    const flood = await Promise.all(Array.from({ length: 200 }, () => ask("GET", "/transfers/1", { token: "forged" })))
    const refused = flood.find(({ status }) => status === 429)
    assert.isDefined(refused)
    assert.deepStrictEqual(refused?.body["violated-policies"], ["address"])
    // nobody else is slowed down by it
    assert.strictEqual((await client()("GET", "/transfers/0", { as: "ada" })).status, 404)
  })

  it("W6 a flood of one user ends with 429, its fields and a time to come back; others pass", async () => {
    // from many addresses: it is the user that is counted
    const asks = [client(), client(), client()]
    const answers = await Promise.all(
      Array.from({ length: 90 }, (_, i) => asks[i % 3]!("GET", "/transfers/0", { as: "eve" }))
    )
    const passed = answers.filter(({ status }) => status === 404)
    const refused = answers.filter(({ status }) => status === 429)
    assert.strictEqual(passed.length + refused.length, 90)
    assert.isAtLeast(passed.length, 60)
    assert.isNotEmpty(refused)
    for (const { body, headers } of refused) {
      assert.strictEqual(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded")
      assert.deepStrictEqual(body["violated-policies"], ["user"])
      assert.strictEqual(headers.get("ratelimit-policy"), `"user";q=60;w=60`)
      assert.match(headers.get("ratelimit") ?? "", /^"user";r=0;t=\d+$/)
      assert.match(headers.get("retry-after") ?? "", /^[1-9]\d?$/)
    }
    assert.match(passed[0]!.headers.get("ratelimit") ?? "", /^"user";r=\d+;t=\d+$/)
    assert.strictEqual((await client()("GET", "/transfers/0", { as: "dora" })).status, 404)
  })

  it("H19 W4 bodies that are too long, no JSON or wrong are refused with their places, and spend no key", async () => {
    const ask = client()
    const send = (body: unknown, headers: Record<string, string> = {}) =>
      ask("POST", "/transfers", { as: "fred", key: "b", body, headers })
    const long = await send({ to: "bob", amount: 1, iban: "x".repeat(5000) })
    assert.strictEqual(long.status, 413)
    assert.strictEqual((await send("{\"to\": secret")).status, 400)
    assert.strictEqual((await send("<to/>", { "content-type": "application/xml" })).status, 415)
    const wrong = await send({ to: "Bob\r\nset-cookie: a=b", amount: 1.5 })
    assert.strictEqual(wrong.status, 422)
    assert.deepStrictEqual(
      (wrong.body["errors"] as ReadonlyArray<{ readonly pointer: string }>).map(({ pointer }) => pointer),
      ["#/to", "#/amount"]
    )
    assert.strictEqual((await send("{\"__proto__\":{\"to\":\"bob\"},\"amount\":1}")).status, 422)
    // in chunks, so that no length announces it
    const chunked = await new Promise<number>((resolve, reject) => {
      const request = nodeRequest(`${base}/transfers`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          authorization: `Bearer ${tokens.get("fred")}`,
          "idempotency-key": "chunked",
          "x-forwarded-for": "203.0.113.250"
        }
      }, (response) => {
        response.resume()
        resolve(response.statusCode ?? 0)
      })
      request.on("error", reject)
      for (let i = 0; i < 100; i++) request.write("x".repeat(20_000))
      request.end()
    })
    assert.strictEqual(chunked, 413)
    assert.strictEqual((await send({ to: "bob", amount: 1 })).status, 201)
  })

  it("W1 W6 ids and addresses that a client makes up break no line, no field and no limit", async () => {
    const ask = client()
    const get = (headers: Record<string, string>) => ask("GET", "/transfers/0", { as: "gina", headers })
    assert.strictEqual((await get({ "x-request-id": "req-1" })).headers.get("x-request-id"), "req-1")
    for (const evil of ["a b", "a\tb", "<script>", "x".repeat(129), "{\"level\":\"ERROR\"}", "\u00e9"]) {
      const answer = await get({ "x-request-id": evil, "x-correlation-id": evil })
      const id = answer.headers.get("x-request-id") ?? ""
      assert.match(id, /^[\w-]{20,40}$/)
      assert.strictEqual(answer.body["requestId"], id)
    }
    for (const key of ["a b", "\"a", "x".repeat(256), "a,b"]) {
      const answer = await ask("POST", "/transfers", { as: "gina", key, body: { to: "bob", amount: 1 } })
      assert.deepStrictEqual([answer.status, answer.body["type"]], [
        400,
        "urn:millrace:problem:idempotency-key-invalid"
      ])
    }
    // what Node's own client would not send
    const raw = await new Promise<string>((resolve, reject) => {
      const socket = connect(Number(new URL(base).port), "127.0.0.1")
      let text = ""
      socket.on("data", (chunk) => text += chunk).on("close", () => resolve(text)).on("error", reject)
      socket.write(
        "GET /transfers/%0d%0aset-cookie:%20a=b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" +
          `authorization: Bearer ${tokens.get("gina")}\r\nx-request-id: a\x0bb\r\nx-request-id: c\r\n\r\n`
      )
    })
    assert.match(raw, /^HTTP\/1\.1 4\d\d /)
    assert.notMatch(raw, /^set-cookie/im)
  })

  it("X12 a dependency that is slow is waited for in bounds, then not any more, and the API says so", async () => {
    const ask = client()
    const send = (key: string) => ask("POST", "/transfers", { as: "hugo", key, body: { to: "slow-bob", amount: 1 } })
    const statuses: Array<number> = []
    for (let i = 0; i < 4; i++) statuses.push((await send(`s${i}`)).status)
    assert.deepStrictEqual(statuses, [504, 504, 504, 503])
    const open = await send("s0")
    // nothing was decided, so the key is free, and the request was tried again
    assert.deepStrictEqual([open.status, open.headers.get("idempotent-replayed")], [503, null])
    assert.match(open.headers.get("retry-after") ?? "", /^([1-9]|10)$/)
    const health = await ask("GET", "/readyz")
    assert.deepStrictEqual([health.status, health.body["status"]], [200, "warn"])
    assert.strictEqual((await ask("GET", "/livez")).status, 200)
  })

  it("B10 each line is one JSON object, and no token and no account number is in any", () => {
    const lines = output.split("\n").filter((line) => line !== "" && !line.startsWith("Listening"))
    assert.isAbove(lines.length, 50)
    for (const line of lines) {
      const { correlationId, level } = JSON.parse(line) as Record<string, unknown>
      assert.isString(level)
      if (line.includes("serve ")) assert.match(String(correlationId), /^[\w.:/+=@-]{1,128}$/)
    }
    assert.include(output, "<redacted>")
    assert.notInclude(output, iban)
    assert.notInclude(output, secret)
    for (const token of tokens.values()) assert.notInclude(output, token)
  })

  it("X14 it ends in order when it is told to, and says what it takes", async () => {
    const closed = once(child, "close")
    child.kill("SIGTERM")
    await closed
    assert.strictEqual(child.exitCode, 0)
    assert.match(output, /Stopped\n$/)
    const help = await run(process.execPath, [main, "--help"], {})
    assert.include(JSON.stringify(help), "PORT")
  })
})
