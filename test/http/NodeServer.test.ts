import { assert, describe, it } from "@effect/vitest"
import { Body, IdempotencyKey, type Request, Server } from "@millrace/http"
import { Idempotency, Retry, Timeout } from "@millrace/core"
import { Cause, Effect, Exit, Logger, pipe, Schedule, Schema, Scope, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { createReadStream } from "node:fs"
import { Agent, request as nodeRequest } from "node:http"
import { connect, type Socket } from "node:net"
import { call, servers } from "./support.ts"

const until = (isSo: () => boolean) =>
  Effect.promise(async () => isSo()).pipe(
    Effect.repeat({ until: (is) => is, schedule: Schedule.spaced("5 millis") }),
    Effect.timeout("10 seconds")
  )

const open = (base: string, text: string): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(base).port), "127.0.0.1", () => {
      socket.write(text)
      resolve(socket)
    }).once("error", reject)
    socket.on("error", () => {})
  })

const heard = (socket: Socket): Promise<string> =>
  new Promise((resolve) => {
    let text = ""
    socket.on("data", (data) => text += String(data)).once("close", () => resolve(text))
  })

describe.each(["Listener", "HttpRouter"] as const)("%s on Node", (name) => {
  it.live("W12 what an answer holds and is not sent is given back: HEAD, 204, a client that has gone", () =>
    Effect.gen(function*() {
      const open = new Set<unknown>()
      const file = (status: number) => () =>
        Effect.sync(() => {
          const stream = createReadStream("/etc/hosts")
          open.add(stream)
          stream.once("close", () => open.delete(stream))
          return HttpServerResponse.raw(stream, { status, contentType: "text/plain" })
        })
      const base = yield* servers[name]([
        Server.route("GET", "/file", file(200)),
        Server.route("GET", "/none", file(204))
      ])
      for (let i = 0; i < 5; i++) {
        assert.match((yield* Effect.promise(() => call(base, "/file"))).text, /localhost/)
        assert.strictEqual((yield* Effect.promise(() => call(base, "/file", { method: "HEAD" }))).text, "")
        assert.strictEqual((yield* Effect.promise(() => call(base, "/none"))).status, 204)
      }
      yield* until(() => open.size === 0)
    }))

  it.live("W12 W10 what a handler opens is closed when its answer has been sent, and not when the server ends", () =>
    Effect.gen(function*() {
      let held = 0
      const hold = Effect.acquireRelease(Effect.sync(() => ++held), () => Effect.sync(() => --held))
      const base = yield* servers[name]([
        Server.route("GET", "/now", () => Effect.as(hold, { ok: true })),
        Server.route("GET", "/late", () => Effect.as(Effect.andThen(hold, Effect.sleep(5)), { ok: true })),
        Server.route("GET", "/fails", () => Effect.andThen(hold, Effect.die("broken"))),
        Server.route("GET", "/none", () => Effect.succeed({ ok: true }))
      ])
      for (const path of ["/now", "/late", "/none", "/fails", "/now"]) yield* Effect.promise(() => call(base, path))
      yield* until(() => held === 0)
    }))

  it.live("W12 a defect is 500 and logged whole: of a key, of a header, of a body that breaks off", () =>
    Effect.gen(function*() {
      const errors: Array<string> = []
      const logger = Logger.make(({ cause, logLevel, message }) => {
        if (logLevel === "Error") errors.push(`${String(message)} ${Cause.pretty(cause)}`)
      })
      const base = yield* Effect.provide(
        servers[name]([
          Server.route("GET", "/key", () => Effect.void, {
            key: () => {
              throw new Error("no key in there")
            }
          }),
          Server.route(
            "GET",
            "/header",
            () => Effect.succeed(HttpServerResponse.text("x", { headers: { "x-a": "a\nb" } }))
          ),
          Server.route("GET", "/status", () => Effect.succeed(HttpServerResponse.text("x", { status: 1000 }))),
          Server.route("GET", "/body", () =>
            Effect.succeed(
              HttpServerResponse.stream(
                Stream.concat(Stream.make(new Uint8Array(8)), Stream.die(new Error("broke off in the middle")))
              )
            ))
        ]),
        Logger.layer([logger])
      )
      const answers = yield* Effect.promise(() =>
        Promise.all(["/key", "/header", "/status"].map((path) => call(base, path)))
      )
      for (const { json, status } of answers) assert.deepStrictEqual([status, json()["failure"]], [500, "defect"])
      assert.strictEqual(yield* Effect.promise(() => call(base, "/body").then(() => "whole", () => "cut")), "cut")
      for (const part of [/no key in there/, /x-a/, /status 1000/, /broke off in the middle/]) {
        assert.strictEqual(
          errors.filter((line) => part.test(line)).length,
          1,
          `${String(part)} in ${errors.join("\n")}`
        )
      }
    }))

  it.live("W12 W4 a body is read once for all that ask, whoever stops waiting for it", () =>
    Effect.gen(function*() {
      const body = JSON.stringify({ text: "x".repeat(200_000) })
      const length = (request: Request<unknown>) => Effect.succeed({ bytes: request.body?.length })
      const base = yield* servers[name]([
        // the first attempt is interrupted in the middle of the body
        Server.route(
          "POST",
          "/again",
          pipe(
            length,
            Body.json(Schema.Unknown),
            Timeout.middleware({ after: "50 millis" }),
            Retry.middleware({ schedule: Schedule.spaced("10 millis") })
          )
        ),
        Server.route("POST", "/both", (request) =>
          Effect.map(
            Effect.all([request.bytes(1e6), request.bytes(1e6), Effect.exit(request.bytes(10_000))], {
              concurrency: "unbounded"
            }),
            ([a, b, exit]) => [a.length, b.length, exit._tag]
          ))
      ])
      const slowly = (path: string) =>
        new Promise<string>((resolve, reject) => {
          const request = nodeRequest(base + path, {
            method: "POST",
            agent: false,
            headers: { "content-type": "application/json", "transfer-encoding": "chunked" }
          }, (response) => {
            let text = ""
            response.on("data", (part) => text += String(part)).on("end", () => resolve(text))
          }).on("error", reject)
          request.write(body.slice(0, 100_000))
          setTimeout(() => request.end(body.slice(100_000)), 150)
        })
      assert.strictEqual(yield* Effect.promise(() => slowly("/again")), JSON.stringify({ bytes: body.length }))
      assert.strictEqual(
        yield* Effect.promise(() => slowly("/both")),
        JSON.stringify([body.length, body.length, "Failure"])
      )
    }))

  it.live("W12 W4 a body that drips under an idempotency key is given up", () =>
    Effect.gen(function*() {
      const base = yield* servers[name]([
        Server.route(
          "POST",
          "/keyed",
          pipe(
            (_: Request) => Effect.succeed("ok"),
            IdempotencyKey.middleware({ caller: () => "all", bodyTimeout: "100 millis" })
          )
        )
      ]).pipe(Effect.provide(Idempotency.layerMemory()))
      const socket = yield* Effect.promise(() =>
        open(base, "POST /keyed HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ncontent-length: 1000\r\n\r\n")
      )
      const drip = setInterval(() => socket.write(" "), 20)
      const text = yield* Effect.promise(() => heard(socket))
      clearInterval(drip)
      assert.match(text, /^HTTP\/1.1 408 /)
    }))
})

describe.each(["Listener", "HttpRouter"] as const)("%s as it ends", (name) => {
  const listen = servers[name]

  it.live("W12 W10 it ends at once beside connections that ask nothing", () =>
    Effect.gen(function*() {
      const silent: Record<string, (base: string) => Promise<unknown>> = {
        nothing: async () => {},
        "a connection that says nothing": (base) => open(base, ""),
        "half a head": (base) => open(base, "GET / HTTP/1.1\r\nhost: x\r\n"),
        "half a body that no route read": async (base) => {
          const socket = await open(base, "POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nab")
          return new Promise((resolve) => socket.once("data", resolve))
        },
        "a connection that is kept": (base) =>
          new Promise((resolve) => {
            nodeRequest(base, { agent: new Agent({ keepAlive: true }) }, (answer) => answer.resume().on("end", resolve))
              .on("error", () => {}).end()
          })
      }
      for (const [name, begin] of Object.entries(silent)) {
        const scope = yield* Scope.make()
        const routes = [
          Server.route("GET", "/", () => Effect.succeed("x")),
          Server.route("POST", "/unread", () => Effect.succeed("x"))
        ]
        const base = yield* Scope.provide(listen(routes), scope)
        yield* Effect.promise(() => begin(base))
        const ended = yield* Effect.timeoutOption(Scope.close(scope, Exit.void), "10 seconds")
        assert.strictEqual(ended._tag, "Some", name)
      }
    }))

  it.live("W12 W10 it sends a large answer to its last byte", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const size = 20 * 1024 * 1024
      const base = yield* Scope.provide(
        listen([Server.route("GET", "/", () => Effect.succeed(new Uint8Array(size)))]),
        scope
      )
      const got = new Promise<number>((resolve, reject) => {
        nodeRequest(base, { agent: false }, (response) => {
          let bytes = 0
          // a client that reads slowly
          response.pause()
          setTimeout(() => response.resume(), 700)
          response.on("data", (part: Buffer) => bytes += part.length).on("end", () => resolve(bytes)).on(
            "error",
            reject
          )
          Effect.runFork(Scope.close(scope, Exit.void))
        }).on("error", reject).end()
      })
      assert.strictEqual(yield* Effect.promise(() => got), size)
    }))

  it.live("W12 W10 a server that ends closes a connection whose client never reads its answer, after its grace", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const size = 64 * 1024 * 1024
      const base = yield* Scope.provide(
        servers[name]([Server.route("GET", "/", () => Effect.succeed(new Uint8Array(size)))], { grace: "1 second" }),
        scope
      )
      const socket = yield* Effect.promise(() => open(base, "GET / HTTP/1.1\r\nhost: x\r\n\r\n"))
      socket.pause()
      yield* Effect.sleep("100 millis")
      yield* Effect.timeout(Scope.close(scope, Exit.void), "15 seconds")
      socket.destroy()
    }))

  it.live("W12 W4 a head that does not come in time is answered with 408, and its connection closed", () =>
    Effect.gen(function*() {
      const base = yield* servers[name]([Server.route("GET", "/", () => Effect.void)], { headTimeout: "200 millis" })
      for (const text of ["GET / HTTP/1.1\r\nhost:", "G", ""]) {
        const socket = yield* Effect.promise(() => open(base, text))
        const answer = yield* Effect.timeout(Effect.promise(() => heard(socket)), "10 seconds")
        assert.match(answer, /^HTTP\/1\.1 408 /, text)
      }
      assert.strictEqual((yield* Effect.promise(() => call(base, "/"))).status, 204)
    }))
})
