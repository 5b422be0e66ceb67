/**
 * One run of chaos: messages flow, processes are killed, stopped, frozen and added at random, the server goes down twice, and
 * in the end all is reconciled.
 */
import { Broker, type BrokerError, DeadLetters, Headers, Outgoing } from "@millrace/core"
import type { ServerFailed, ServerNotOwned, ServerUnavailable } from "@millrace/testing/servers"
import { Data, Effect, Fiber, Random, Redacted, Schedule, Scope } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Lives from "../faults/Lives.ts"
import type { Life } from "./consumer.ts"
import { type Account, Ledger } from "./Ledger.ts"
import { type Subject, subjects } from "./subjects.ts"

/** How a run goes. */
export interface Options {
  readonly subject: string
  readonly messages: number
  readonly keys: number
  /** Messages to publish in a second, at most. */
  readonly rate: number
  readonly seed: string
  /** Hears how it goes. */
  readonly say: (text: string) => Effect.Effect<void>
}

/** What was done to the processes and the server. */
export interface Faults {
  killed: number
  stopped: number
  frozen: number
  added: number
  restarts: number
}

/** The end of a run. */
export interface Report extends Account, Faults {
  readonly title: string
  readonly seconds: number
  /** The most messages that may have been handled again: what was in flight at each fault. */
  readonly bound: number
  /** Messages that a consumer of the same group got after all was done. */
  readonly after: number
  /** What broke a promise, as sentences. */
  readonly broken: ReadonlyArray<string>
}

/** The processes of a run ended in a way of their own. */
export class ProcessFailed extends Data.TaggedError("ProcessFailed")<{ readonly message: string }> {}

const inFlight = 1024
const span = 2000
const longestBatch = 512

const slotsOf = (count: number): ReadonlyArray<number> => Array.from({ length: count }, (_, i) => i + 1)

const encoder = new TextEncoder()
const script = fileURLToPath(new URL("./consumer.ts", import.meta.url))

/** Milliseconds without news after which what is missing is lost. */
const silence = 20_000

type Failures = BrokerError.BrokerError | ServerFailed | ServerNotOwned | ServerUnavailable | ProcessFailed

/** Runs it. The draws come again with the same seed; what real processes do meanwhile does not. */
export const run = (options: Options): Effect.Effect<Report, Failures> => {
  const subject = subjects[options.subject]!
  return Effect.scoped(Effect.gen(function*() {
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-chaos-"))),
      (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
    )
    const server = yield* subject.server
    const address = server.url === undefined ? server.address : Redacted.value(server.url)
    return yield* Effect.provide(
      driven(options, subject, new Ledger(folder, options.keys, subject), address, {
        down: subject.end === "kill" ? server.kill : server.stop,
        up: server.start
      }),
      subject.layer(address, 0)
    )
  })).pipe(Random.withSeed(options.seed))
}

interface Power {
  readonly down: Effect.Effect<void, ServerFailed | ServerNotOwned>
  readonly up: Effect.Effect<void, ServerFailed | ServerNotOwned>
}

const driven = Effect.fnUntraced(function*(
  { keys, messages, rate, say, seed, subject: name }: Options,
  subject: Subject,
  ledger: Ledger,
  address: string,
  power: Power
) {
  const broker = yield* Broker.Broker
  const scope = yield* Scope.Scope
  const channel = `chaos-${Date.now().toString(36)}`
  const group = "chaos"
  const { members, partitions } = subject
  yield* broker.declare({ channel, partitions })
  yield* broker.declare({ channel: DeadLetters.channelOf(channel), partitions: partitions && 1 })
  yield* say(`seed ${seed}: ${messages} messages of ${keys} keys over ${subject.title}`)

  let lives = 0
  const faults: Faults = { killed: 0, stopped: 0, frozen: 0, added: 0, restarts: 0 }
  const running = new Map<number, Lives.Process>()
  const start = (slot: number) =>
    Effect.map(
      Lives.start(
        {
          life: ++lives,
          subject: name,
          address,
          slot,
          channel,
          group,
          file: ledger.file,
          inFlight,
          span,
          isOrdered: subject.isOrdered,
          slowest: 20
        } satisfies Life,
        script
      ).pipe(Scope.provide(scope)),
      (process) => {
        running.set(slot, process)
        return process
      }
    )
  /** What begins is not struck before it works, or nothing ever would. */
  const untilReady = (process: Lives.Process) =>
    Effect.sync(() => process.printed().includes("ready") || !process.isRunning()).pipe(
      Effect.repeat({ until: (isOver) => isOver, schedule: Schedule.spaced("50 millis") }),
      Effect.timeoutOption("15 seconds")
    )
  // a broker that keeps nothing for those who are not there yet gets its messages when they are
  for (const slot of slotsOf(members)) yield* Effect.flatMap(start(slot), untilReady)

  // one publish fails, not all of an outage
  const untilHealthy = Effect.retry(broker.check, { schedule: Schedule.spaced("200 millis") })

  const began = performance.now()
  let published = 0
  const producer = yield* Effect.forkChild(Effect.gen(function*() {
    while (published < messages) {
      const texts = ledger.next(Math.min(500, messages - published))
      published += texts.length
      const batch = texts.map((text) =>
        new Outgoing(channel, encoder.encode(text), text.slice(0, text.indexOf(" ")), Headers.empty)
      )
      yield* broker.publishAll(batch).pipe(
        Effect.map(() => ledger.confirm(texts)),
        Effect.catch((error: BrokerError.BrokerError) => {
          ledger.doubt(texts)
          return error.retriable ? untilHealthy : Effect.fail(error)
        })
      )
      const ahead = published / rate * 1000 - (performance.now() - began)
      if (ahead > 0) yield* Effect.sleep(ahead)
    }
  }))

  const ensureAlive = (process: Lives.Process) =>
    process.isRunning()
      ? Effect.void
      : new ProcessFailed({ message: `life ${process.life} ended by itself: ${process.printed()}` })

  /** One fault, at random. */
  const strike = Effect.gen(function*() {
    const slots = Array.from(running.keys())
    const slot = slots[yield* Random.nextIntBetween(0, slots.length, { halfOpen: true })]
    const free = slotsOf(members + 1).filter((each) => !running.has(each))
    if (slot === undefined || (members > 1 && free.length > 1 && (yield* Random.nextBoolean))) {
      const process = yield* start(free[yield* Random.nextIntBetween(0, free.length, { halfOpen: true })]!)
      yield* untilReady(process)
      faults.added++
      return
    }
    const process = running.get(slot)!
    yield* ensureAlive(process)
    const dice = yield* Random.nextIntBetween(0, 2)
    if (dice === 0) {
      running.delete(slot)
      yield* process.kill
      faults.killed++
    } else if (dice === 1) {
      running.delete(slot)
      const code = yield* process.terminate
      if (code !== 0) {
        return yield* new ProcessFailed({ message: `life ${process.life} ended with ${code}: ${process.printed()}` })
      }
      faults.stopped++
    } else {
      yield* process.freeze
      yield* Effect.sleep(yield* Random.nextIntBetween(500, 6000))
      yield* process.thaw
      faults.frozen++
    }
  })

  const restarts = [1 / 3, 2 / 3].map((share) => share * messages)
  for (let round = 1; producer.pollUnsafe() === undefined; round++) {
    yield* Effect.sleep(yield* Random.nextIntBetween(200, 1500))
    if (published > (restarts[0] ?? Infinity)) {
      restarts.shift()
      yield* power.down
      yield* Effect.sleep("1 second")
      yield* power.up
      faults.restarts++
    } else yield* strike
    const account = ledger.look()
    if (round % 5 === 0) {
      yield* say(
        `${published} published, ${account.handled} handled, ${account.repeated} again; ${JSON.stringify(faults)}`
      )
    }
  }
  yield* Fiber.join(producer)
  // every member comes back: a broker may keep for it alone what it had not done
  for (const slot of slotsOf(members > 1 ? members + 1 : 1)) if (!running.has(slot)) yield* start(slot)

  // all is done when nothing is missing, or nothing has come for a while
  let account = ledger.look()
  for (let quiet = 0; account.lost > 0 && quiet < silence;) {
    yield* Effect.sleep("500 millis")
    const now = ledger.look()
    quiet = now.handled === account.handled ? quiet + 500 : 0
    account = now
  }
  // what was handled last is settled before its process ends
  yield* Effect.sleep("2 seconds")
  for (const process of running.values()) {
    yield* ensureAlive(process)
    yield* process.terminate
  }
  account = ledger.look()
  const last = yield* start(1)
  yield* Effect.sleep("5 seconds")
  yield* last.terminate
  const end = ledger.look()
  // a message that was published without an answer may be handled for the first time only now: nothing has promised it
  const after = end.repeated - account.repeated + account.lost - end.lost

  const ends = faults.killed + faults.stopped + faults.frozen + faults.restarts * members
  // where positions are committed, what is settled beyond one that is not comes again, too
  const held = inFlight + longestBatch + (broker.capabilities.settlement === "position" ? span : 0)
  const bound = ends * held
  const isLasting = subject.delivery === "at-least-once"
  return {
    title: subject.title,
    ...end,
    ...faults,
    after,
    bound,
    seconds: (performance.now() - began) / 1000,
    broken: [
      ...ledger.broken,
      ...isLasting && end.lost > 0
        ? [`${end.lost} confirmed messages were never handled: ${ledger.missing(10).join(", ")}`]
        : [],
      ...isLasting && after > 0 ? [`${after} messages came again after all was settled`] : [],
      ...end.repeated > bound ? [`${end.repeated} were handled again, ${bound} is the most that was in flight`] : []
    ]
  } satisfies Report
})
