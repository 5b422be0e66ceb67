import type { Simulation } from "@millrace/testing"
import { Effect, Fiber } from "effect"
import { fair } from "./fair.ts"
import { counted } from "./Observers.ts"
import { cameTo } from "./records.ts"
import { channel, kinds, setUp, type Subject } from "./settings.ts"
import { Stage } from "./Stage.ts"
import type { Tally } from "./Tally.ts"

/** One history: most often a storm, and now and then an uneven load. */
export const history = (subject: Subject) => (world: Simulation.World): Effect.Effect<Tally> =>
  kinds.fairness > 0 && world.chance(kinds.fairness) ? fair(subject, world) : storm(subject, world)

/** A storm, then calm weather in which all that is left must be done. */
const storm = (subject: Subject, world: Simulation.World): Effect.Effect<Tally> =>
  Effect.gen(function*() {
    const settings = setUp(world, subject)
    const { chance, integer, pick } = world
    world.log(() => JSON.stringify(settings))
    const memory = yield* subject.MemoryBroker.make({
      partitions: settings.partitions,
      settlement: settings.settlement,
      claim: settings.claim
    })
    const stage = new Stage(world, subject, settings, memory)
    yield* memory.driver.declare({ channel, partitions: settings.partitions }).pipe(Effect.orDie)
    Object.assign(stage.network.faults, {
      publish: pick([0, 0.3, 0.8]),
      settle: settings.has.refusals ? pick([0.5, 1]) : pick([0, 0, 0.1]),
      slow: pick([0, 0.2, 0.8]),
      longest: pick([5, 50]),
      extend: settings.has.claims ? pick([0, 0.3]) : 0,
      silent: settings.has.silence ? pick([0.01, 0.05]) : 0,
      broken: settings.has.broken ? pick([0.01, 0.05]) : 0
    })
    stage.publish(settings.messages)
    for (let i = integer(1, 2); i > 0; i--) stage.start()
    for (let i = integer(2, 14); i > 0; i--) {
      // what comes at once, or nearly so, meets in the middle
      yield* Effect.sleep(chance(0.25) ? integer(0, 1) : integer(0, 40))
      const { alive } = stage
      const one = alive.length === 0 ? undefined : pick(alive)
      const what = pick(["publish", "start", "rush", "drain", "kill", "pause", "resume", "stop", "up", "sleep"])
      if (what === "publish") stage.publish(integer(1, 6))
      else if (what === "start" && alive.length < 3) stage.start()
      else if (what === "rush" && stage.book.isUp && alive.length < 3) {
        // who joins waits for what others give back when the broker goes
        stage.start()
        yield* Effect.sleep(integer(0, 3))
        stage.up(false)
      } else if (what === "stop" && stage.book.isUp && chance(0.5)) {
        stage.up(false)
      } else if (what === "up" || what === "sleep") {
        stage.up(true)
      } else if (one === undefined) continue
      else if (what === "drain") stage.drain(one)
      else if (what === "kill" && chance(0.5)) stage.kill(one)
      else if (what === "pause") stage.pause(one, true)
      else if (what === "resume") stage.pause(one, false)
    }
    stage.up(true)
    stage.settle()
    // an operator starts anew what waits for an answer that never comes
    if (settings.has.silence || chance(0.2)) { for (const one of stage.alive) stage.drain(one) }
    if (stage.alive.length === 0) stage.start()
    const { book } = stage
    if (settings.has.letters && settings.refusedDeadLetter === "wait") {
      yield* Effect.sleep(5_000)
      book.letters.standing(book.all, (entry) => book.isDone(entry), ({ outgoing }) => book.laneOf(outgoing))
      book.letters.isPicky = false
    }
    const committed = () => memory.positions(channel, "g").every((done, p) => done === memory.ends(channel)[p])
    const deadline = world.now() + 60_000
    do {
      yield* Effect.sleep(20)
      if (stage.alive.length === 0) stage.start()
    } while (!committed() && world.now() < deadline)
    book.check("6 settles", committed(), () =>
      `not settled: ${
        book.all.filter((entry) =>
          memory.positions(channel, "g")[entry.partition]! <= entry.position
        )
          .map((entry) =>
            `${entry.partition}/${entry.position} (${
              entry.runs.map((run) => cameTo(run) ?? "open").join(", ") || "never ran"
            })`
          ).join("; ")
      }`)
    book.check(
      "8 hold",
      memory.ends(channel).every((end, p) =>
        end === (book.entries[p]?.length ?? 0)
      ),
      () => "something was published to the channel itself"
    )
    // what was told last is heard, what was interrupted long ago has ended, and then nobody has anything left
    yield* Effect.sleep(settings.has.undeclared ? 6000 : 1000)
    for (const one of stage.alive) {
      if (one.running === undefined) one.start.missing(one, () => "it waits")
    }
    for (const one of stage.alive) if (one.running !== undefined) stage.rests(one)
    for (const one of stage.consumers) {
      if (one.killed) continue
      const drains = [stage.drain(one), ...(one.ending === undefined ? [] : [one.ending])]
      const end = yield* Effect.timeoutOption(Fiber.awaitAll(drains), 120_000)
      book.check("drain", end._tag === "Some", () => `the drain of ${one.name} does not end`)
    }
    // a start that waits for an answer ends by itself
    yield* Effect.sleep(settings.has.silence || settings.has.undeclared ? 6000 : 1000)
    for (const one of stage.consumers) {
      if (one.killed) continue
      const { fibers, timers } = one.process.held()
      if (settings.has.leaks) {
        book.check(
          "leaks",
          fibers === 0 && timers === 0,
          () => `${one.name} has ended and holds ${fibers} fibers and ${timers} timers`
        )
      }
      if (settings.has.letters) book.letters.ended(one)
      counted(book, one, book.all.flatMap(({ runs }) => runs).filter(({ consumer }) => consumer === one))
    }
    book.letters.concluded(book.all, (entry) => book.isEnded(entry))
    for (const entry of book.all) {
      for (const run of entry.runs) {
        if (run.consumer.killed) continue
        const id = `${entry.partition}/${entry.position}`
        book.check("hooks", run.hooksRun === 1, () => `the hooks of ${id} ran ${run.hooksRun} times`)
        if (!settings.has.observers) continue
        book.check("told", run.rows === 1, () => `the audit has ${run.rows} rows of one run of ${id}`)
      }
    }
    return book
  })
