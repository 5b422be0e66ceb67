import { assert, describe, it } from "@effect/vitest"
import { Claims, ClaimS3, ClaimStore } from "@millrace/claims"
import { SignatureV4 } from "@smithy/signature-v4"
import { Effect, Layer, Redacted } from "effect"
import { HttpClient, HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { Sha256 } from "../services/awsSha256.ts"
import { bytesOf } from "./support.ts"

interface Sent {
  readonly method: string
  readonly url: URL
  readonly headers: Record<string, string>
}

/** A client that records requests, and answers that there is no such key. */
const recorded = () => {
  const sent: Array<Sent> = []
  const layer = Layer.succeed(
    HttpClient.HttpClient,
    HttpClient.make((request, url) =>
      Effect.sync(() => {
        sent.push({ method: request.method, url, headers: { ...request.headers } })
        return HttpClientResponse.fromWeb(
          request,
          new Response("<Error><Code>NoSuchKey</Code></Error>", { status: 404 })
        )
      })
    )
  )
  return { sent, layer }
}

const time = Date.UTC(2026, 11, 1, 12, 34, 56)
const keys = { accessKeyId: "AKIDEXAMPLE", secretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" }

/** The signature of AWS's own implementation for a request that ours has sent. */
const theirs = async ({ headers, method, url }: Sent, sessionToken: string | undefined) => {
  const signer = new SignatureV4({
    service: "s3",
    region: "eu-central-1",
    credentials: sessionToken === undefined ? keys : { ...keys, sessionToken },
    sha256: Sha256,
    uriEscapePath: false,
    applyChecksum: true
  })
  const signed = Object.fromEntries(
    Object.entries(headers).filter(([name]) => ["range", "x-amz-content-sha256"].includes(name))
  )
  const made = await signer.sign({
    method,
    protocol: url.protocol,
    hostname: url.hostname,
    path: url.pathname,
    query: Object.fromEntries(url.searchParams),
    headers: { ...signed, host: url.host }
  }, { signingDate: new Date(time) })
  return made.headers["authorization"]
}

const requests = [
  (store: ClaimStore.Store["Service"]) => store.read("2026-12-01/0123-abc", 10),
  (store: ClaimStore.Store["Service"]) => Effect.scoped(store.open("2026-12-01/a_b.c-d", 100)),
  (store: ClaimStore.Store["Service"]) => store.read("a + b/ü/~'()*!&=@", 10),
  (store: ClaimStore.Store["Service"]) => Effect.ignore(store.write("2026-12-01/w", bytesOf(100)))
]

describe("ClaimS3", () => {
  for (const sessionToken of [undefined, "a session/token=="]) {
    for (const [i, ask] of requests.entries()) {
      it.effect(`X13 signs request ${i} ${sessionToken === undefined ? "" : "with a session "}as AWS does`, () => {
        const { layer, sent } = recorded()
        const credentials = {
          ...keys,
          secretAccessKey: Redacted.make(keys.secretAccessKey),
          sessionToken: sessionToken === undefined ? undefined : Redacted.make(sessionToken)
        }
        const options = { bucket: "shop-bodies", prefix: "claims/", region: "eu-central-1", credentials }
        return Effect.gen(function*() {
          yield* TestClock.setTime(time)
          yield* Effect.provide(
            Effect.flatMap(ClaimStore.Store, (store): Effect.Effect<unknown, unknown> => ask(store)),
            ClaimS3.layer(options)
          )
          const [request] = sent
          assert.strictEqual(request!.url.host, "shop-bodies.s3.eu-central-1.amazonaws.com")
          assert.match(request!.url.pathname, /^\/claims\//)
          assert.strictEqual(
            request!.headers["authorization"],
            yield* Effect.promise(() => theirs(request!, sessionToken))
          )
        }).pipe(Effect.provide(layer))
      })
    }
  }

  it.effect("X13 addresses a bucket in the path of an endpoint, and one with a dot in Amazon's path", () =>
    Effect.gen(function*() {
      const address = (more: Partial<ClaimS3.Options>) => {
        const { layer, sent } = recorded()
        const options = { bucket: "shop.bodies", region: "eu-central-1", credentials: keys, ...more }
        const read = Effect.flatMap(ClaimStore.Store, (store) => store.read("2026-12-01/a", 1))
        return Effect.map(
          Effect.provide(read, Layer.provide(ClaimS3.layer(options), layer)),
          () => sent[0]!.url.href
        )
      }
      assert.strictEqual(yield* address({}), "https://s3.eu-central-1.amazonaws.com/shop.bodies/2026-12-01/a")
      assert.strictEqual(
        yield* address({ endpoint: "http://127.0.0.1:9000", bucket: "bodies", prefix: "a/b/" }),
        "http://127.0.0.1:9000/bodies/a/b/2026-12-01/a"
      )
    }))

  it.effect("X13 reads no more of an answer than it may, however long the server says it is", () =>
    Effect.gen(function*() {
      let pulled = 0
      const endless = () =>
        new ReadableStream<Uint8Array>({
          pull: (controller) => {
            // a body that was read as a whole would not end
            if (++pulled > 100) controller.error(new TypeError("too much is read"))
            else controller.enqueue(bytesOf(1000))
          }
        }, { highWaterMark: 0 })
      const answers: ReadonlyArray<Record<string, string>> = [
        {},
        { "content-length": "99999999999" },
        { "content-length": "10", "content-encoding": "gzip" },
        { "content-length": "many" }
      ]
      for (const headers of answers) {
        pulled = 0
        const client = Layer.succeed(
          HttpClient.HttpClient,
          HttpClient.make((request) =>
            Effect.sync(() => HttpClientResponse.fromWeb(request, new Response(endless(), { headers })))
          )
        )
        const store = ClaimS3.layer({ bucket: "bodies", region: "eu-central-1", credentials: keys })
        const body = yield* Effect.provide(
          Effect.flatMap(ClaimStore.Store, (found) => found.read("2026-12-01/a", 2500)),
          Layer.provide(store, client)
        )
        assert.lengthOf(body ?? [], 2500)
        assert.isBelow(pulled, 10)
      }
    }))

  it("X13 refuses buckets, prefixes, endpoints and credentials that are none", () => {
    const good = { bucket: "bodies", region: "eu-central-1", credentials: keys }
    for (
      const wrong of [
        { bucket: "a/b" },
        { bucket: "Bodies" },
        { prefix: "../" },
        { prefix: "/a" },
        { prefix: "a//b" },
        { prefix: "a/./b" },
        { prefix: "a?b" },
        { region: "eu/central" },
        { endpoint: "ftp://a" },
        { endpoint: "http://a/path" },
        { name: "" },
        { credentials: { accessKeyId: "", secretAccessKey: "a" } }
      ]
    ) assert.throws(() => ClaimS3.layer({ ...good, ...wrong }), RangeError, "ClaimS3: ", JSON.stringify(wrong))
    ClaimS3.layer(good)
    assert.throws(() => Claims.transform({ sqs: { bucket: "" } }), RangeError)
  })
})
