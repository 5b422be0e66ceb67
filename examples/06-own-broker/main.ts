/**
 * Brings twenty parcels into a folder and weighs what is there, one after another. Stop it whenever you like, by Ctrl-C or
 * kill -9: started again, it goes on with the parcel that it had not done.
 *
 *     node examples/06-own-broker/main.ts [FOLDER]
 */
import { NodeFileSystem, NodeRuntime } from "@effect/platform-node"
import { Broker, Channel, Decode, Health, Publisher, Stack, Subscription } from "@millrace/core"
import { Console, Deferred, Effect, Layer, Schema, Stream } from "effect"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as FileBroker from "./fileBroker.ts"

const folder = process.argv[2] ?? join(tmpdir(), "millrace-parcels")

const Parcel = Schema.Struct({ number: Schema.Int, grams: Schema.Int })
const Parcels = Channel.make("parcels", { payload: Parcel })

const program = Effect.gen(function*() {
  const broker = yield* Broker.Broker
  const before = yield* Stream.runCount(broker.browse(Parcels.name))
  const numbers = Array.from({ length: 20 }, (_, index) => before + index + 1)
  yield* Publisher.make(Parcels).publishAll(numbers.map((number) => ({ number, grams: 100 + (number * 377) % 900 })))
  yield* Console.log(`parcels ${before + 1} to ${before + 20} came to ${folder}`)

  const finished = yield* Deferred.make<void>()
  const weigh = Effect.fn("weigh")(function*({ grams, number }: typeof Parcel.Type) {
    yield* Effect.sleep("50 millis")
    yield* Console.log(`parcel ${number}: ${grams} g`)
    if (number === before + 20) yield* Deferred.succeed(finished, undefined)
  })
  const handler = Stack.start().use(Decode.middleware(Parcels)).handle((message) => weigh(message.payload))
  yield* Subscription.run(Subscription.make(Parcels, { group: "scales", name: "weigh" }, handler))
  yield* Deferred.await(finished)
})

const broker = FileBroker.layer(folder).pipe(Layer.provide(NodeFileSystem.layer))
NodeRuntime.runMain(program.pipe(Effect.scoped, Effect.provide(broker)), { teardown: Health.teardown })
