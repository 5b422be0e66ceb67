import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Broker, Channel, type Driver, Engine, Outgoing, Stack, Subscription } from "@millrace/core"
import { BrokerContract } from "@millrace/testing"
import { Deferred, Effect, Exit, FileSystem, PlatformError, References, Scope, Stream } from "effect"
import { appendFileSync, globSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs"
import * as FileBroker from "../../examples/06-own-broker/fileBroker.ts"

const bytesOf = (text: string) => new TextEncoder().encode(text)
const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

const temporary = Effect.flatMap(FileSystem.FileSystem, (fs) => fs.makeTempDirectoryScoped({ prefix: "own-broker-" }))
/** On real files; what a broker warns of is expected here. */
const files = <A, E>(effect: Effect.Effect<A, E, FileSystem.FileSystem | Scope.Scope>) =>
  effect.pipe(Effect.provide(NodeFileSystem.layer), Effect.provideService(References.MinimumLogLevel, "None"))

/** A driver on a folder, for as long as `use` lasts. */
const opened = <A, E, R>(folder: string, use: (driver: Driver.Driver) => Effect.Effect<A, E, R>) =>
  Effect.scoped(Effect.flatMap(FileBroker.make(folder), use))

const message = (body: string) => new Outgoing("c", bytesOf(body), undefined, {})

const bodies = (driver: Driver.Driver) =>
  Effect.map(Stream.runCollect(driver.browse("c")), (all) => all.map(({ raw }) => textOf(raw)))

/** A driver that can be taken down as by a crash in the middle of a write: each channel then ends in half a message. */
const crashing = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const folder = yield* temporary
  const open = Effect.gen(function*() {
    const scope = yield* Scope.make()
    const driver = yield* FileBroker.make(folder).pipe(
      Scope.provide(scope),
      Effect.provideService(FileSystem.FileSystem, fs)
    )
    return { driver, close: Scope.close(scope, Exit.void) }
  })
  let life = yield* open
  yield* Effect.addFinalizer(() => life.close)
  const driver: Driver.Driver = {
    ...life.driver,
    consume: (options, sink) => life.driver.consume(options, sink),
    publish: (batch) => life.driver.publish(batch),
    declare: (declaration) => life.driver.declare(declaration),
    browse: (channel) => Stream.suspend(() => life.driver.browse(channel)),
    check: Effect.suspend(() => life.driver.check),
    lag: (channel, group) => life.driver.lag(channel, group)
  }
  const tear = Effect.sync(() => {
    for (const path of globSync(`${folder}/*.log`)) appendFileSync(path, readFileSync(path).subarray(0, 19))
  })
  const start = Effect.map(open, (next) => {
    life = next
  })
  return { driver, stop: Effect.andThen(Effect.suspend(() => life.close), tear), start }
})

describe("X5 X3 X4 F13 F3 T16 X9 the own broker keeps the contract", () => {
  BrokerContract.suite("files", files(crashing), { missing: "created" })
})

describe("the own broker", () => {
  it.live(
    "T17 cuts off what a crash left unfinished, at whatever byte, and nothing before it",
    () =>
      files(
        Effect.gen(function*() {
          const folder = yield* temporary
          const log = `${folder}/c.log`
          const texts = ["", "second", "third"]
          const ends = yield* opened(
            folder,
            (driver) =>
              Effect.forEach(texts, (text) => Effect.map(driver.publish([message(text)]), () => statSync(log).size))
          )
          const whole = readFileSync(log)
          for (let size = 0; size <= whole.length; size++) {
            writeFileSync(log, whole.subarray(0, size))
            const left = texts.filter((_, index) => (ends[index] ?? 0) <= size)
            yield* opened(folder, (driver) =>
              Effect.gen(function*() {
                assert.deepStrictEqual(yield* bodies(driver), left, `after ${size} bytes`)
                assert.strictEqual(statSync(log).size, ends[left.length - 1] ?? 0)
                yield* driver.publish([message("next")])
              }))
            assert.deepStrictEqual(yield* opened(folder, bodies), [...left, "next"])
          }
        }).pipe(Effect.scoped)
      ),
    60_000
  )

  it.live("T17 reads again what is longer than a chunk, and cuts it when it is torn", () =>
    files(
      Effect.gen(function*() {
        const folder = yield* temporary
        const log = `${folder}/c.log`
        const texts = ["short", "x".repeat(5 << 20), "y", "z".repeat(3 << 20)]
        yield* opened(folder, (driver) => driver.publish(texts.map(message)))
        assert.deepStrictEqual(yield* opened(folder, bodies), texts)
        truncateSync(log, statSync(log).size - 1)
        assert.deepStrictEqual(yield* opened(folder, bodies), texts.slice(0, 3))
      }).pipe(Effect.scoped)
    ))

  it.live("T17 refuses a file that is damaged before its end, names the byte and touches nothing", () =>
    files(
      Effect.gen(function*() {
        const folder = yield* temporary
        const log = `${folder}/c.log`
        const second = yield* opened(folder, (driver) =>
          Effect.gen(function*() {
            yield* driver.publish([message("first")])
            const { size } = statSync(log)
            yield* driver.publish([message("second"), message("third")])
            return size
          }))
        const whole = readFileSync(log)
        for (let at = 0; at < second; at++) {
          const damaged = Uint8Array.from(whole, (byte, index) => index === at ? byte ^ 1 : byte)
          writeFileSync(log, damaged)
          const error = yield* Effect.flip(opened(folder, bodies))
          assert.strictEqual(error.failure, "permanent")
          assert.include(error.message, "c.log is damaged at byte 0,")
          assert.deepStrictEqual(Uint8Array.from(readFileSync(log)), damaged)
        }
      }).pipe(Effect.scoped)
    ))

  it.live("T17 confirms after the sync; what could not be synced is no message, and the next one is", () =>
    files(
      Effect.gen(function*() {
        const folder = yield* temporary
        const real = yield* FileSystem.FileSystem
        const steps: Array<string> = []
        let full = false
        const failure = PlatformError.systemError({
          _tag: "Unknown",
          module: "FileSystem",
          method: "sync",
          description: "no space"
        })
        const watched: FileSystem.FileSystem = {
          ...real,
          open: (path, options) =>
            Effect.map(real.open(path, options), (file): FileSystem.File =>
              path.endsWith(".log")
                ? {
                  [FileSystem.FileTypeId]: FileSystem.FileTypeId,
                  stat: file.stat,
                  seek: (offset, from) => file.seek(offset, from),
                  read: (buffer, options) => file.read(buffer, options),
                  readAlloc: (size, options) => file.readAlloc(size, options),
                  truncate: (length) => file.truncate(length),
                  write: (bytes) => file.write(bytes),
                  writeAll: (bytes) => Effect.tap(file.writeAll(bytes), () => Effect.sync(() => steps.push("written"))),
                  sync: Effect.suspend(() =>
                    full ? Effect.fail(failure) : Effect.tap(file.sync, () => Effect.sync(() => steps.push("synced")))
                  )
                }
                : file)
        }
        yield* opened(folder, (driver) =>
          Effect.gen(function*() {
            yield* driver.publish([message("first")])
            steps.push("confirmed")
            assert.deepStrictEqual(steps, ["written", "synced", "confirmed"])
            full = true
            const error = yield* Effect.flip(driver.publish([message("lost"), message("lost too")]))
            assert.strictEqual(error.failure, "transient")
            assert.include(error.message, "no space")
            assert.deepStrictEqual(yield* bodies(driver), ["first"])
            full = false
            yield* driver.publish([message("second")])
            assert.deepStrictEqual(yield* bodies(driver), ["first", "second"])
          })).pipe(Effect.provideService(FileSystem.FileSystem, watched))
        assert.deepStrictEqual(yield* opened(folder, bodies), ["first", "second"])
      }).pipe(Effect.scoped)
    ))

  it.live("T17 keeps where a group began at the latest message, though it has done none", () =>
    files(
      Effect.gen(function*() {
        const folder = yield* temporary
        const got: Array<string> = []
        const first = yield* Deferred.make<void>()
        const handler = Stack.start().handle((delivery) =>
          Effect.andThen(Effect.sync(() => got.push(textOf(delivery.raw))), Deferred.succeed(first, undefined))
        )
        const group = Subscription.make(Channel.bytes("c"), { group: "g", name: "n", from: "latest" }, handler)
        const once = <A, E>(wait: Effect.Effect<A, E>) =>
          opened(folder, (driver) =>
            Effect.scoped(Effect.andThen(Subscription.run(group), wait)).pipe(
              Effect.provideService(Broker.Broker, Engine.make(driver))
            ))
        yield* opened(folder, (driver) => driver.publish([message("before")]))
        yield* once(Effect.void)
        yield* opened(folder, (driver) => driver.publish([message("between")]))
        yield* once(Deferred.await(first))
        assert.deepStrictEqual(got, ["between"])
      }).pipe(Effect.scoped)
    ))

  it.live("T17 refuses a position that its channel has not reached", () =>
    files(
      Effect.gen(function*() {
        const folder = yield* temporary
        writeFileSync(`${folder}/c@g.position`, "7")
        const group = Subscription.make(
          Channel.bytes("c"),
          { group: "g", name: "n" },
          Stack.start().handle(() => Effect.void)
        )
        const error = yield* opened(folder, (driver) =>
          Effect.scoped(Subscription.run(group)).pipe(
            Effect.provideService(Broker.Broker, Engine.make(driver)),
            Effect.flip
          ))
        assert.include(error.message, "c@g.position")
      }).pipe(Effect.scoped)
    ))

  it.live("T17 has a folder for itself until it is closed", () =>
    files(
      Effect.gen(function*() {
        const folder = yield* temporary
        const error = yield* opened(folder, () => Effect.flip(opened(folder, bodies)))
        assert.deepStrictEqual([error.reason, error.failure], ["Conflict", "transient"])
        const driver = yield* opened(folder, Effect.succeed)
        const late = yield* Effect.flip(driver.publish([message("late")]))
        assert.strictEqual(late.reason, "Lost")
        assert.deepStrictEqual(yield* opened(folder, bodies), [])
      }).pipe(Effect.scoped)
    ))
})
