import { NodeFileSystem } from "@effect/platform-node"
import { type Driver } from "@millrace/core"
import { BrokerContract } from "@millrace/testing"
import { Effect, Exit, FileSystem, Scope, Stream } from "effect"
import { appendFileSync, globSync } from "node:fs"
import * as FileBroker from "../../examples/06-own-broker/fileBroker.ts"

/** A driver whose process crashes: in the middle of a write, so that each channel ends in half a message. */
const crashing = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "own-broker-" })
  const open = Effect.gen(function*() {
    const scope = yield* Scope.make()
    const driver = yield* Effect.onError(
      FileBroker.make(folder).pipe(Scope.provide(scope)),
      (cause) => Scope.close(scope, Exit.failCause(cause))
    )
    return { driver, close: Scope.close(scope, Exit.void) }
  }).pipe(Effect.provideService(FileSystem.FileSystem, fs))
  let life = yield* open
  yield* Effect.addFinalizer(() => life.close)
  const driver: Driver.Driver = {
    ...life.driver,
    consume: (options, sink) => life.driver.consume(options, sink),
    publish: (batch) => life.driver.publish(batch),
    declare: (declaration) => life.driver.declare(declaration),
    browse: (channel) => Stream.suspend(() => life.driver.browse(channel))
  }
  return {
    driver,
    stop: Effect.andThen(
      Effect.suspend(() => life.close),
      Effect.sync(() => {
        for (const path of globSync(`${folder}/*.log`)) appendFileSync(path, Buffer.alloc(13, 1))
      })
    ),
    start: Effect.map(open, (opened) => {
      life = opened
    })
  }
}).pipe(Effect.provide(NodeFileSystem.layer))

BrokerContract.suite("files", crashing, { missing: "created" })
