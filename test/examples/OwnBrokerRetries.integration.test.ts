import { NodeFileSystem } from "@effect/platform-node"
import { describe, it } from "@effect/vitest"
import { Broker, Engine } from "@millrace/core"
import { Effect, FileSystem } from "effect"
import * as FileBroker from "../../examples/06-own-broker/fileBroker.ts"
import { delayedRetries } from "../memory/delayedRetries.ts"

describe("delayed retries on the own broker", () => {
  it.live(
    "F11 X3 X4 delayed retries wait in files, over several lives, with nothing lost",
    () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const folder = yield* fs.makeTempDirectoryScoped({ prefix: "own-broker-" })
        const driver = yield* FileBroker.make(folder)
        yield* delayedRetries("jobs", "g").pipe(Effect.provideService(Broker.Broker, Engine.make(driver)))
      }).pipe(Effect.scoped, Effect.provide(NodeFileSystem.layer)),
    60_000
  )
})
