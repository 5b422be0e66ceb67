import { Broker, type BrokerError, DeadLetters } from "@millrace/core"
import { Kafka, type KafkaAdmin } from "@millrace/kafka"
import { Kafka as Servers } from "@millrace/testing/servers"
import { Console, Effect, Layer, Random, type Scope } from "effect"
import { rmSync } from "node:fs"
import { expect } from "vitest"
import { fresh } from "../kafka/support.ts"
import { Evidence, type Place } from "./Evidence.ts"
import type { Life } from "./fixtures/consumer.ts"
import * as Lives from "./Lives.ts"

/** A Kafka of one's own that notices a killed member soon; by itself it lets nobody ask for less than six seconds. */
export const server = Servers.own({ properties: { "group.min.session.timeout.ms": "500" } })

/** One run of a test: a channel of its own, its evidence, and lives of its consumer. */
export interface Run {
  readonly evidence: Evidence
  /** Looks at the evidence; it has to keep all rules so far. */
  readonly check: Effect.Effect<void, BrokerError.BrokerError, KafkaAdmin.KafkaAdmin>
  readonly start: Effect.Effect<Lives.Process, never, Scope.Scope>
  readonly say: (text: string) => Effect.Effect<void>
}

/** After so long without a handled message the test fails and prints where the group stands. */
const longestStall = "1 minute"

/** The draws come again with the same seed; what real processes do meanwhile does not. */
const seed = process.env["MILLRACE_SEED"] ?? `${Date.now() % 1_000_000}`

/** Runs a test of a name, on a server, with all its chance from one seed; `how` goes to each life. */
export const run = <A, E>(
  name: string,
  kafka: Servers.KafkaServer,
  place: Omit<Place, "channel" | "group">,
  how: Pick<Life, "inFlight" | "session" | "slowest" | "lanes">,
  body: (run: Run) => Effect.Effect<A, E, Broker.Broker | KafkaAdmin.KafkaAdmin | Scope.Scope>
): Effect.Effect<A, E | BrokerError.BrokerError> =>
  Effect.gen(function*() {
    const names = { channel: fresh(name), group: fresh("group") }
    const broker = yield* Broker.Broker
    yield* broker.declare({ channel: names.channel, partitions: place.partitions })
    yield* broker.declare({ channel: DeadLetters.channelOf(names.channel), partitions: 1 })
    const evidence = yield* Effect.acquireRelease(
      Effect.sync(() => new Evidence({ ...place, ...names })),
      ({ folder }) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
    )
    const { audit, witness } = evidence
    const lives: Array<Lives.Process> = []
    const start = Effect.suspend(() =>
      Lives.start({ ...how, ...names, audit, witness, brokers: kafka.brokers, life: lives.length + 1 })
    ).pipe(Effect.tap((life) => Effect.sync(() => lives.push(life))))
    const began = performance.now()
    const say = (text: string) => Console.log(`${name}, ${((performance.now() - began) / 1000).toFixed(0)} s: ${text}`)
    yield* say(`MILLRACE_SEED=${seed}`)
    const check = Effect.map(evidence.look, () => expect(evidence.broken.slice(0, 20)).toEqual([]))
    const stalled = Effect.gen(function*() {
      let runs = -1
      while (runs < evidence.runs) {
        runs = evidence.runs
        yield* Effect.sleep(longestStall)
      }
      const progress = JSON.stringify(yield* evidence.progress)
      const printed = lives.filter((life) => life.isRunning()).map((life) => `life ${life.life}:\n${life.printed()}`)
      return yield* Effect.die(
        new Error(
          `No message was handled for ${longestStall}, after ${runs} runs, ${evidence.unhandled} confirmed are unhandled. ${progress}\n${
            printed.join("\n")
          }`
        )
      )
    })
    return yield* Effect.raceFirst(body({ evidence, check, start, say }), stalled)
  }).pipe(
    Effect.scoped,
    Effect.provide(Layer.merge(Kafka.layer({ brokers: kafka.brokers }), Kafka.layerAdmin({ brokers: kafka.brokers }))),
    Random.withSeed(seed)
  )

/** Lets a life finish all there is and ends it; then nothing is missing, and no rule was broken on the way. */
export const reconcile = Effect.fnUntraced(
  function*({ check, evidence, say }: Run, ...lives: ReadonlyArray<Lives.Process>) {
    yield* evidence.untilDone
    for (const life of lives) expect(yield* life.terminate, life.printed()).toBe(0)
    yield* check
    expect((yield* evidence.amiss).slice(0, 20)).toEqual([])
    yield* say(
      `reconciled: ${evidence.confirmed.size} confirmed, ${evidence.handled} handled, of which ${evidence.repeated} again, ${evidence.rows} audit rows`
    )
  }
)
