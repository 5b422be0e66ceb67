import { assert, describe, it } from "@effect/vitest"
import { Idempotency, type Message } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Temporal } from "@millrace/temporal"
import { StartWorkflow, type WorkflowStarter, WorkflowType } from "@millrace/workflow"
import { ConfigProvider, Effect, Layer, Redacted, Schema } from "effect"
import { once } from "node:events"
import { createServer, type Http2Server } from "node:http2"
import type { AddressInfo } from "node:net"
import { afterAll, beforeAll } from "vitest"

const Job = WorkflowType.make("Job", { payload: Schema.String })
const start = StartWorkflow.handler({
  workflow: Job,
  key: (message: Message<Uint8Array>) => message.key,
  payload: () => "x"
})

/** A server that answers each call with one status of gRPC. */
let server: Http2Server
let address = ""
let answer = { code: 0, details: "" }
let calls = 0

beforeAll(async () => {
  server = createServer((request, response) => {
    // the client asks for the features of the server first
    if (request.url.endsWith("StartWorkflowExecution")) calls++
    request.resume()
    response.stream.respond({
      ":status": 200,
      "content-type": "application/grpc",
      "grpc-status": String(answer.code),
      "grpc-message": encodeURIComponent(answer.details)
    }, { endStream: true })
  })
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  address = `127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(() => {
  server.close()
})

const failed = (at: string) =>
  Effect.flip(
    Effect.provide(
      Effect.suspend(() => start(Deliveries.make({ key: "k" }))),
      Layer.merge(
        Temporal.layer({ address: at, taskQueue: "q", timeout: "10 seconds" }),
        Idempotency.layerMemory()
      )
    )
  )

describe("Temporal's errors", () => {
  // https://grpc.io/docs/guides/status-codes
  it.live.each<readonly [string, number, string, Partial<WorkflowStarter.CallError>]>([
    ["invalid argument", 3, "Blob data size exceeds limit.", { failure: "permanent", reason: "payload" }],
    ["deadline exceeded", 4, "late", { failure: "dependency" }],
    ["a namespace that is not there", 5, "Namespace orders is not found.", { failure: "dependency" }],
    ["permission denied", 7, "no", { failure: "dependency" }],
    ["exhausted", 8, "namespace rate limit exceeded", { failure: "throttled" }],
    ["a message above gRPC's limit", 8, "grpc: received message larger than max (5 vs. 4)", {
      failure: "permanent",
      reason: "size"
    }],
    ["internal", 13, "oops", { failure: "dependency" }],
    ["unavailable", 14, "shutting down", { failure: "dependency" }],
    ["unauthenticated", 16, "expired", { failure: "dependency" }]
  ])("T5 %s", ([, code, details, expected]) =>
    Effect.gen(function*() {
      answer = { code, details }
      assert.deepInclude(yield* failed(address), expected)
    }))

  it.live("T5 a server that is down is a dependency, without a hot loop", () =>
    Effect.gen(function*() {
      answer = { code: 14, details: "down" }
      calls = 0
      const error = yield* failed(address)
      assert.deepInclude(error, { _tag: "WorkflowUnavailable", failure: "dependency" })
      assert.isAtMost(calls, 10)
      const gone = yield* failed("127.0.0.1:1")
      assert.deepInclude(gone, { _tag: "WorkflowUnavailable", failure: "dependency" })
      assert.include(gone.message, "127.0.0.1:1")
    }))

  it("T5 wrong options are refused when it is built", () => {
    assert.throws(() => Temporal.layer({ taskQueue: "" }), /^Temporal: taskQueue must be/)
    assert.throws(() => Temporal.layer({ taskQueue: "q", timeout: 0 }), /^Temporal: timeout must be/)
  })

  it.effect("T5 the connection comes from the environment", () =>
    Effect.gen(function*() {
      const options = yield* Temporal.connectionConfig.parse(ConfigProvider.fromUnknown({
        TEMPORAL_ADDRESS: "temporal.example:7233",
        TEMPORAL_NAMESPACE: "orders",
        TEMPORAL_API_KEY: "secret",
        TEMPORAL_TLS_SERVER_NAME: "temporal"
      }))
      assert.deepInclude(options, { address: "temporal.example:7233", namespace: "orders" })
      assert.strictEqual(options.apiKey === undefined ? "" : Redacted.value(options.apiKey), "secret")
      assert.deepInclude(options.tls, { serverName: "temporal" })
      assert.notInclude(JSON.stringify(options), "secret")
      const error = yield* Effect.flip(Effect.provide(
        Layer.build(Temporal.layerConfig()),
        ConfigProvider.layer(ConfigProvider.fromUnknown({}))
      ))
      assert.include(String(error), "TEMPORAL_TASK_QUEUE")
    }).pipe(Effect.scoped))
})
