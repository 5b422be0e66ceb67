import { assert, describe, it } from "@effect/vitest"
import { ClaimFile, ClaimStore } from "@millrace/claims"
import { DeadLetters, Decode, type Message, Subscription } from "@millrace/core"
import { RedisStreams } from "@millrace/redis"
import { Redis } from "@millrace/testing/servers"
import { Clock, Effect, pipe, Redacted, Stream } from "effect"
import { execFile, execFileSync } from "node:child_process"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { describeServer } from "../services/describe.ts"
import { eventually, fresh } from "../services/driving.ts"
import { channelOf, documentOf } from "./fixtures/documents.ts"
import { bytesOf } from "./support.ts"

const fixture = (name: string) => fileURLToPath(new URL(`./fixtures/${name}.ts`, import.meta.url))

interface Ended {
  readonly signal: string | undefined
  readonly output: string
}

/** Runs a program of the fixtures to its end, which may be a signal. */
const run = (name: string, args: ReadonlyArray<string>, flags: ReadonlyArray<string> = []) =>
  Effect.promise(() =>
    new Promise<Ended>((done) => {
      execFile(process.execPath, [...flags, fixture(name), ...args], (error, stdout, stderr) =>
        done({ signal: error?.signal ?? undefined, output: `${stdout}${error === null ? "" : stderr}` }))
    })
  )

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-claims-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** All files below a folder. */
const filesIn = (path: string) =>
  readdirSync(path, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).length

// MILLRACE_CLAIM_MEBIBYTES=1024 for the whole GiB
const size = process.env["MILLRACE_CLAIM_MEBIBYTES"] ?? "256"

describe("processes with claims", () => {
  it.live(
    "X13 a body of 256 MiB goes through a process that has 32 MiB of heap and grows by less than 96 MiB",
    () =>
      Effect.gen(function*() {
        const directory = yield* folder
        const { output } = yield* run("large", [directory, size], ["--max-old-space-size=32"])
        const { grown, ...rest }: { readonly grown: number } = JSON.parse(output)
        assert.deepStrictEqual(rest as object, { written: Number(size), read: Number(size) })
        assert.isBelow(grown, 96)
      }).pipe(Effect.scoped),
    120_000
  )

  // only root may mount a small disk
  it.live.skipIf(process.getuid?.() !== 0)(
    "X13 a full disk fails the write as a dependency, leaves no file, and the next smaller body fits",
    () =>
      Effect.gen(function*() {
        const directory = yield* folder
        yield* Effect.acquireRelease(
          Effect.sync(() => execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "none", directory])),
          () => Effect.sync(() => execFileSync("umount", ["-l", directory]))
        )
        yield* Effect.gen(function*() {
          const store = yield* ClaimStore.Store
          const key = "2026-12-01/full"
          const writes = [store.write(key, bytesOf(2_000_000)), store.writeStream(key, Stream.make(bytesOf(2_000_000)))]
          for (const write of writes) {
            const error = yield* Effect.flip(write)
            assert.strictEqual(error._tag, "ClaimStoreUnavailable")
            assert.match(error.message, /the disk is full/)
            assert.strictEqual(filesIn(directory), 0)
          }
          assert.strictEqual(yield* store.read(key, 1), undefined)
          yield* store.write(key, bytesOf(500_000))
          assert.lengthOf((yield* store.read(key, 500_001)) ?? [], 500_000)
        }).pipe(Effect.provide(ClaimFile.layer({ directory, retention: "1 day" })))
      }).pipe(Effect.scoped),
    30_000
  )
})

describeServer("Claims on Redis Streams", Redis.own(), (redis) => {
  it.live(
    "X13 publishers that are killed between write and publish lose nothing and leave bodies that are removed",
    () =>
      Effect.gen(function*() {
        const directory = yield* folder
        const name = fresh("documents")
        const url = Redacted.value(redis().url)
        for (
          const [point, ...ids] of [
            ["in the write", "a", "b"],
            ["before the publish", "c", "d"],
            ["after the publish", "e", "f"],
            // what was not told to be published is published again
            ["after the publish", "b", "d"]
          ] as const
        ) {
          const { output, signal } = yield* run("publisher", [url, directory, name, point, ...ids])
          assert.strictEqual(signal, "SIGKILL", output)
        }
        const Documents = channelOf(name)
        yield* Effect.gen(function*() {
          const seen: Array<Message<ReturnType<typeof documentOf>>> = []
          yield* Subscription.run(Subscription.make(
            Documents,
            { group: "g", name: "n" },
            pipe(
              (message: Message<ReturnType<typeof documentOf>>) => Effect.sync(() => void seen.push(message)),
              Decode.middleware(Documents)
            )
          ))
          yield* eventually(() => seen.length >= 6)
          assert.deepStrictEqual(
            seen.map(({ payload }) => payload),
            ["a", "c", "e", "f", "b", "d"].map(documentOf)
          )
          const letters = yield* Stream.runCollect(DeadLetters.list(`${name}.dead-letters`))
          assert.lengthOf(Array.from(letters), 0)
          // six bodies and the half of one: d was written twice, under one name
          assert.strictEqual(filesIn(directory), 7)
          const store = yield* ClaimStore.Store
          const now = yield* Clock.currentTimeMillis
          yield* store.prune!(now - 24 * 3_600_000)
          assert.strictEqual(filesIn(directory), 7)
          assert.strictEqual(yield* store.prune!(now + 48 * 3_600_000), 7)
          assert.strictEqual(filesIn(directory), 0)
        }).pipe(
          Effect.provide([
            RedisStreams.layer({ url: redis().url }),
            ClaimFile.layer({ directory, retention: "1 day" })
          ]),
          Effect.scoped
        )
      }).pipe(Effect.scoped),
    120_000
  )
})
