/** Publishes numbers into a folder, in batches of three, and says each batch that is confirmed, until it is killed. */
import { NodeFileSystem } from "@effect/platform-node"
import { Outgoing } from "@millrace/core"
import { Console, Effect } from "effect"
import * as FileBroker from "../../../examples/06-own-broker/fileBroker.ts"

const program = Effect.gen(function*() {
  const driver = yield* FileBroker.make(process.argv[2] ?? "")
  for (let number = 0;; number += 3) {
    const texts = [number, number + 1, number + 2].map((each) => `${each} ${"x".repeat(each % 50_000)}`)
    yield* driver.publish(texts.map((text) => new Outgoing("numbers", new TextEncoder().encode(text), undefined, {})))
    yield* Console.log(number + 2)
  }
})

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(NodeFileSystem.layer)))
