/**
 * Invoices with attachments: Avro with a schema registry, compressed, encrypted, and large ones in a store beside the broker.
 *
 *     node examples/08-payloads/main.ts                          # starts a Kafka and a registry for this run; needs Java 17
 *     node examples/08-payloads/main.ts --broker memory
 *     node examples/08-payloads/main.ts --registry http://127.0.0.1:8080/apis/ccompat/v7 --broker kafka --url 127.0.0.1:9092
 *
 * A publisher writes them, a consumer reads them, and a last line for each shows the bytes that the broker holds. One invoice
 * is changed on its way, and becomes a dead letter.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { ClaimFile, Claims } from "@millrace/claims"
import { Compression, SchemaRegistry } from "@millrace/codecs"
import {
  Broker,
  Channel,
  DeadLetters,
  Decode,
  type Message,
  Outgoing,
  PayloadCodec,
  Publisher,
  Stack,
  Subscription
} from "@millrace/core"
import { Encryption, Keys } from "@millrace/crypto"
import { Apicurio } from "@millrace/testing/servers"
import { Console, Data, Deferred, Effect, Layer, Option, Schema, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { FetchHttpClient } from "effect/http"
import { randomBytes } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Brokers from "../02-any-broker/brokers.ts"

const Invoice = Schema.Struct({
  id: Schema.String,
  customer: Schema.String,
  amount: Schema.Int,
  attachment: Schema.Uint8Array
})

/** The schema of the bytes; the registry gives it an id, which each body carries. */
const definition = {
  type: "record",
  name: "Invoice",
  namespace: "example.shop",
  fields: [
    { name: "id", type: "string" },
    { name: "customer", type: "string" },
    { name: "amount", type: "int" },
    { name: "attachment", type: "bytes" }
  ]
}

/** From the invoice outwards: Avro, fewer bytes, bytes that only holders of a key read, and large ones elsewhere. */
const Invoices = Channel.make("invoices", {
  payload: Invoice,
  key: ({ customer }) => customer,
  codec: PayloadCodec.through(SchemaRegistry.avro(definition, { register: true }), [
    Compression.make({ algorithm: "zstd" }),
    Encryption.transform(),
    Claims.transform({ threshold: 64 * 1024 })
  ])
})

const deadLetters = DeadLetters.channelOf(Invoices.name)

const publisher = Publisher.make(Invoices)

// zeros compress well, the other half not at all
const attachmentOf = (bytes: number): Uint8Array => randomBytes(bytes).fill(0, 0, Math.floor(bytes / 2))

const sizes = [0, 2_000, 40_000, 500_000, 3_000_000]

const consumer = (read: (id: string) => Effect.Effect<void>) =>
  Subscription.make(
    Invoices,
    { group: "accounting", name: "accounting" },
    Stack.start().use(Decode.middleware(Invoices)).handle(({ payload }: Message<typeof Invoice.Type>) =>
      Effect.andThen(
        Console.log(
          `${payload.id}: read, ${payload.amount} of ${payload.customer}, attachment of ${payload.attachment.length} bytes`
        ),
        read(payload.id)
      )
    )
  )

const flags = {
  broker: Flag.Literals("broker", Brokers.names).pipe(
    Flag.withDescription("Where the messages travel (default: kafka)"),
    Flag.withDefault("kafka")
  ),
  url: Flag.Redacted("url").pipe(
    Flag.withDescription("A broker that runs already (default: one is started)"),
    Flag.optional
  ),
  registry: Flag.String("registry").pipe(
    Flag.withDescription("The API of a schema registry (default: one is started)"),
    Flag.optional
  )
}

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-payloads-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

class Unread extends Data.TaggedError("Unread")<{ readonly message: string }> {}

/** The bytes of one message in the broker, and whether its body is elsewhere. */
const shown = ({ headers, raw }: { readonly headers: Readonly<Record<string, string>>; readonly raw: Uint8Array }) =>
  `${raw.length} bytes in the broker${
    Object.keys(headers).some((name) => name.includes("claim")) ? ", a reference" : ""
  }`

const run = Effect.gen(function*() {
  const broker = yield* Broker.Broker
  for (const channel of [Invoices.name, deadLetters]) yield* broker.declare({ channel })
  const left = new Set(sizes.map((_, i) => `invoice-${i + 1}`))
  const all = yield* Deferred.make<void>()
  yield* Subscription.run(consumer((id) => {
    left.delete(id)
    return left.size === 0 ? Effect.asVoid(Deferred.succeed(all, undefined)) : Effect.void
  }))
  for (const [i, bytes] of sizes.entries()) {
    yield* publisher.publish({
      id: `invoice-${i + 1}`,
      customer: `customer ${i % 2}`,
      amount: 100 * (i + 1),
      attachment: attachmentOf(bytes)
    })
  }
  yield* Effect.timeoutOrElse(Deferred.await(all), {
    duration: "60 seconds",
    orElse: () => Effect.fail(new Unread({ message: `Not read within a minute: ${[...left].join(", ")}` }))
  })
  const held = yield* Stream.runCollect(broker.browse(Invoices.name))
  yield* Effect.forEach(held, (message) => Console.log(`${message.key}: ${shown(message)}`))

  const [first] = held
  if (first === undefined) return
  const changed = Uint8Array.from(first.raw)
  changed[changed.length - 1]! ^= 1
  yield* broker.publish(new Outgoing(Invoices.name, changed, first.key, first.headers))
  const [letter] = yield* Stream.runCollect(DeadLetters.list(deadLetters)).pipe(
    Effect.repeat({ until: (letters) => letters.length > 0 })
  )
  yield* Console.log(`A changed body became a dead letter: ${letter?.errorMessage}`)
})

const start = Command.make("payloads", flags, ({ broker, registry, url }) =>
  Effect.gen(function*() {
    const secret = yield* Keys.generate
    const registryUrl = yield* Option.match(registry, {
      onSome: Effect.succeed,
      onNone: () =>
        Effect.map(Effect.andThen(Console.log("Starting a registry for this run"), Apicurio.own()), ({ url }) => url)
    })
    const services = Layer.mergeAll(
      Brokers.layer(broker, Option.getOrUndefined(url)),
      SchemaRegistry.layer({ url: registryUrl }).pipe(Layer.provide(FetchHttpClient.layer)),
      Keys.layerMemory({ keys: { "2026-12": secret }, writing: "2026-12" }),
      ClaimFile.layer({ directory: yield* folder, retention: "1 day" })
    )
    yield* Effect.scoped(run).pipe(Effect.provide(services))
  }).pipe(Effect.scoped))

NodeRuntime.runMain(Effect.provide(Command.run(start, { version: "0.1.0" }), NodeServices.layer))
