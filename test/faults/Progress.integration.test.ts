import { it } from "@effect/vitest"
import { Broker } from "@millrace/core"
import { Kafka, KafkaAdmin } from "@millrace/kafka"
import { Effect, Layer } from "effect"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { expect } from "vitest"
import { eventually, fresh, outgoing } from "../kafka/support.ts"
import { describeServer } from "../services/describe.ts"
import type { Life } from "./fixtures/stuck.ts"
import * as Lives from "./Lives.ts"
import { server } from "./support.ts"

const script = new URL("./fixtures/stuck.ts", import.meta.url).pathname
const messages = 2000

describeServer("A consumer that is killed while its first message runs", server, (kafka) => {
  const killed = (progress: Life["progress"]) =>
    Effect.gen(function*() {
      const names = { channel: fresh("stuck"), group: fresh("group") }
      const folder = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-stuck-"))),
        (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
      )
      const witness = join(folder, "witness")
      const handled = (life: number) =>
        readFileSync(witness, "utf8").split("\n").map((line) => line.split(" ")).filter(([by]) => by === String(life))
          .map(([, position]) => Number(position))
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel: names.channel, partitions: 1 })
      yield* Effect.forEach(
        Array.from({ length: messages }, (_, n) => outgoing(names.channel, "m", { key: `${n}` })),
        broker.publish,
        { concurrency: "unbounded", discard: true }
      )
      const start = (life: number) =>
        Lives.start({ life, ...names, brokers: kafka().brokers, witness, progress }, script)
      const first = yield* start(1)
      yield* eventually(() => first.printed().includes("up") && handled(1).length === messages)
      // the last commit is on its way
      yield* Effect.sleep("2 seconds")
      yield* first.kill
      yield* start(2)
      const admin = yield* KafkaAdmin.KafkaAdmin
      yield* Effect.repeat(admin.lag(names.group, names.channel), { until: ([place]) => place?.lag === 0 })
      return handled(2).toSorted((a, b) => a - b)
    }).pipe(
      Effect.scoped,
      Effect.provide(
        Layer.merge(Kafka.layer({ brokers: kafka().brokers }), Kafka.layerAdmin({ brokers: kafka().brokers }))
      )
    )

  it.live(
    "X9 progress in the metadata: only the message in flight is redelivered, and nothing is lost",
    () => Effect.map(killed("metadata"), (again) => expect(again).toEqual([0])),
    120_000
  )

  it.live(
    "X9 the offset alone: all beyond it are redelivered",
    () => Effect.map(killed("offset"), (again) => expect(again.length).toBe(messages)),
    120_000
  )
})
