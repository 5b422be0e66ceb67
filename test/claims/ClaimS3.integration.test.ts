import { assert, it } from "@effect/vitest"
import { Claims, ClaimS3, ClaimStore } from "@millrace/claims"
import { S3Proxy } from "@millrace/testing/servers"
import { Deferred, Effect, Fiber, Layer, Redacted, Stream } from "effect"
import { FetchHttpClient } from "effect/http"
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { createServer, request } from "node:http"
import type { AddressInfo } from "node:net"
import { dirname, join } from "node:path"
import { describeServer } from "../services/describe.ts"
import { suite } from "./contract.ts"
import { bytesOf, decode, encode, failureOf, referenceOf } from "./support.ts"

/** Stands between client and server, and does harm to some requests. */
type Harm = "none" | "500" | "403" | "redirect" | "silence" | "cut" | "expired"

const between = (target: () => string) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const state = { harm: "none" as Harm, times: Infinity, seen: new Array<string>(), foreign: 0, address: "" }
      const foreign = createServer((_, response) => {
        state.foreign++
        response.end("secret")
      })
      const server = createServer((incoming, outgoing) => {
        state.seen.push(`${incoming.method} ${incoming.headers["authorization"] ?? ""}`)
        const harm = state.times-- > 0 ? state.harm : "none"
        const answer = (status: number, code: string) => {
          incoming.resume()
          outgoing.writeHead(status, {
            location: `http://127.0.0.1:${(foreign.address() as AddressInfo).port}/`
          })
          outgoing.end(`<Error><Code>${code}</Code></Error>`)
        }
        switch (harm) {
          case "500":
            return answer(500, "InternalError")
          case "403":
            return answer(403, "AccessDenied")
          case "expired":
            return answer(400, "ExpiredToken")
          case "redirect":
            return answer(307, "TemporaryRedirect")
          case "silence":
            incoming.resume()
            return
        }
        const { hostname, port } = new URL(target())
        // the signature is of the address that the client has asked
        const options = { hostname, port, method: incoming.method, path: incoming.url, headers: incoming.headers }
        const onward = request(options, (response) => {
          outgoing.writeHead(response.statusCode ?? 500, response.headers)
          if (harm !== "cut") {
            response.pipe(outgoing)
            return
          }
          response.once("data", (part: Buffer) => {
            outgoing.write(part.subarray(0, 1000))
            setTimeout(() => outgoing.destroy(), 20)
            response.destroy()
          })
        })
        onward.on("error", () => outgoing.destroy())
        incoming.pipe(onward)
      })
      await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
      await new Promise<void>((done) => foreign.listen(0, "127.0.0.1", done))
      state.address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      return { state, servers: [server, foreign] }
    }),
    ({ servers }) =>
      Effect.sync(() => {
        for (const server of servers) {
          server.closeAllConnections()
          server.close()
        }
      })
  )

describeServer("Claims in S3", S3Proxy.own(), (s3) => {
  const layer = (more: Partial<ClaimS3.Options> = {}) => {
    const { bucket, credentials, url } = s3()
    return ClaimS3.layer({
      bucket,
      prefix: "claims/",
      region: "eu-central-1",
      endpoint: url,
      credentials,
      partBytes: 5 * 1024 * 1024,
      ...more
    }).pipe(Layer.provide(FetchHttpClient.layer))
  }
  const pathOf = (key: string) => join(s3().folder, "claims", key)

  suite("S3", layer, {
    prunes: false,
    count: (day) =>
      Effect.sync(() => {
        mkdirSync(pathOf(day), { recursive: true })
        return readdirSync(pathOf(day)).length
      }),
    replace: (key, body) =>
      Effect.sync(() => {
        // a file without the attributes that the server has given it, among them its digest
        rmSync(pathOf(key), { force: true })
        if (body === undefined) return
        mkdirSync(dirname(pathOf(key)), { recursive: true })
        writeFileSync(pathOf(key), body)
      })
  })

  it.live(
    "X13 S3: a stream above a part is uploaded by parts, and one that fails or is interrupted is aborted",
    () =>
      Effect.gen(function*() {
        const store = yield* ClaimStore.Store
        const part = bytesOf(1024 * 1024)
        const many = Stream.fromIterable(Array.from({ length: 12 }, (_, i) => bytesOf(part.length, i)))
        const claim = yield* Claims.put("videos", many)
        assert.strictEqual(claim.size, 12 * part.length)
        let seen = 0
        yield* Stream.runForEach(Claims.stream(claim), (bytes) => Effect.sync(() => void (seen += bytes.length)))
        assert.strictEqual(seen, claim.size)
        assert.lengthOf(yield* Stream.mkUint8Array(Claims.stream(claim, { offset: claim.size - 10 })), 10)

        const key = "2026-12-01/aborted"
        const uploads = () => readdirSync(s3().folder, { recursive: true }).filter((file) => /mpu/.test(String(file)))
        const before = uploads().length
        yield* Effect.flip(store.writeStream(key, Stream.concat(many, Stream.fail("broken"))))
        const reached = yield* Deferred.make<void>()
        const forever = Stream.fromEffect(Effect.andThen(Deferred.succeed(reached, undefined), Effect.never))
        const fiber = yield* Effect.forkChild(store.writeStream(key, Stream.concat(many, forever)))
        yield* Deferred.await(reached)
        assert.isAbove(uploads().length, before)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* store.read(key, 1), undefined)
        assert.strictEqual(uploads().length, before)
      }).pipe(Effect.provide(layer())),
    30_000
  )

  it.live(
    "X13 S3: a wrong secret, a missing bucket and a missing permission are dependencies and say which",
    () =>
      Effect.gen(function*() {
        const fails = (more: Partial<ClaimS3.Options>) =>
          Effect.map(
            Effect.flip(Effect.provide(
              Effect.flatMap(ClaimStore.Store, (store) => store.write("2026-12-01/a", bytesOf(10))),
              layer(more)
            )),
            ({ failure, message }) => `${failure}: ${message}`
          )
        const { credentials } = s3()
        assert.match(
          yield* fails({ credentials: { ...credentials, secretAccessKey: Redacted.make("wrong") } }),
          /dependency: .*credentials are refused .*SignatureDoesNotMatch/
        )
        assert.match(yield* fails({ bucket: "other-bucket" }), /dependency: .*no such bucket/)
        assert.match(yield* fails({ endpoint: "http://127.0.0.1:1" }), /dependency: .*does not answer/)
        const source = Effect.fail("the vault is sealed")
        assert.match(yield* fails({ credentials: source }), /dependency: .*no credentials/)
      }),
    30_000
  )

  it.live(
    "X13 S3: busy, forbidden, silent, broken and redirecting servers make no message poison",
    () =>
      Effect.gen(function*() {
        const { state } = yield* between(() => s3().url)
        const quick = layer({ endpoint: state.address, timeout: "300 millis" })
        const claims = Claims.transform({ threshold: 10, timeout: "5 seconds" })
        const body = bytesOf(300_000, Date.now())
        yield* Effect.gen(function*() {
          const encoded = yield* encode(claims, body)
          for (const harm of ["500", "403", "silence", "cut", "redirect"] as const) {
            state.harm = harm
            state.times = Infinity
            assert.deepStrictEqual(
              yield* failureOf(decode(claims, encoded)),
              ["dependency", "ClaimStoreUnavailable"],
              harm
            )
            if (harm === "cut") continue
            assert.deepStrictEqual(
              yield* failureOf(encode(claims, body)),
              ["dependency", "ClaimStoreUnavailable"],
              `write, ${harm}`
            )
          }
          assert.strictEqual(state.foreign, 0)
          // two failures, then the third request succeeds
          for (const harm of ["500", "silence"] as const) {
            state.harm = harm
            state.times = 2
            assert.deepStrictEqual(Buffer.from(yield* decode(claims, encoded)), Buffer.from(body))
            state.times = 2
            yield* encode(claims, body)
          }
          state.harm = "none"
          rmSync(pathOf(referenceOf(encoded).key))
          assert.deepStrictEqual(yield* failureOf(decode(claims, encoded)), ["dependency", "ClaimMissing"])
        }).pipe(Effect.provide(quick))
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "X13 S3: credentials are kept until they end, and asked for again when they are refused",
    () =>
      Effect.gen(function*() {
        const { state } = yield* between(() => s3().url)
        let asked = 0
        let life = 600_000
        const source = Effect.sync(() => {
          asked++
          return { ...s3().credentials, expiresAt: Date.now() + life }
        })
        yield* Effect.gen(function*() {
          const store = yield* ClaimStore.Store
          const write = store.write("2026-12-01/credentials", bytesOf(10))
          yield* write
          yield* write
          assert.strictEqual(asked, 1)
          state.harm = "expired"
          state.times = 1
          yield* write
          assert.strictEqual(asked, 2)
          // within a minute of their end they are replaced
          life = 59_000
          state.times = 1
          yield* write
          assert.strictEqual(asked, 3)
          yield* write
          assert.strictEqual(asked, 4)
        }).pipe(Effect.provide(layer({ endpoint: state.address, credentials: source })))
      }).pipe(Effect.scoped),
    30_000
  )

  it.live(
    "X13 S3: a server that is killed in the middle of an upload leaves no body, and publishing goes on after it",
    () =>
      Effect.gen(function*() {
        const { kill, start } = s3()
        const claims = Claims.transform({ threshold: 10, timeout: "20 seconds" })
        const part = bytesOf(1024 * 1024)
        const halfway = Stream.unwrap(Effect.as(kill, Stream.make(part)))
        const parts = Stream.fromIterable(Array.from({ length: 7 }, () => part))
        const store = yield* ClaimStore.Store
        const key = "2026-12-01/killed"
        const error = yield* Effect.flip(
          store.writeStream(key, Stream.concat(Stream.concat(parts, halfway), parts))
        )
        assert.propertyVal(error, "_tag", "ClaimStoreUnavailable")
        const body = bytesOf(5000, 77)
        assert.deepStrictEqual(yield* failureOf(encode(claims, body)), ["dependency", "ClaimStoreUnavailable"])
        yield* start
        assert.strictEqual(yield* store.read(key, 1), undefined)
        const encoded = yield* encode(claims, body)
        assert.deepStrictEqual(Buffer.from(yield* decode(claims, encoded)), Buffer.from(body))
      }).pipe(Effect.provide(layer({ timeout: "2 seconds" }))),
    60_000
  )
})
