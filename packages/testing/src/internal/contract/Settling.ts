/** The ten rules of settlement, as far as they are visible from outside. */
import { BrokerError, DeadLetters, type Delivery, Failure, Filter, Lanes, type Message, Outcome } from "@millrace/core"
import { Deferred, Duration, Effect, Latch, pipe } from "effect"
import { type Bench, type Consumer, ensure, type Handle, numbered, same, textOf, Trouble, trouble } from "./Bench.ts"
import { browse, type Scenario, scenario } from "./Scenario.ts"

const settled = (bench: Bench, consumer: Consumer) =>
  bench.untilSome("all is settled", Effect.map(consumer.health, ({ pending }) => pending === 0 || undefined))

/** The number of messages that the broker knows to be done. */
const told = ({ monitor }: Bench): number =>
  monitor.settledAlone + Array.from(monitor.committed.values()).reduce((sum, each) => sum + each, 0)

/** Stops a consumer whose drain has a deadline, and fails if the drain exceeds it. */
const ends = (bench: Bench, consumer: Consumer) =>
  Effect.flatMap(
    Effect.forkDetach(consumer.stop),
    (fiber) =>
      bench.until("the drain ended at its deadline", () => fiber.pollUnsafe() !== undefined, () => consumer.texts)
  )

const outcomes: Scenario = scenario(
  "rule-1-outcomes",
  "rule 1: what a handler answers as its outcome holds",
  ["X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const answers: Record<string, Outcome.Outcome> = {
        ack: Outcome.Ack,
        retry: Outcome.Retry({ after: "5 millis" }),
        release: Outcome.Release,
        letter: Outcome.DeadLetter(trouble("auth")),
        reject: Outcome.Reject("not ours")
      }
      const consumer = yield* bench.consumer(({ attempt, raw }) =>
        Effect.succeed(attempt === 1 ? answers[textOf(raw)] : undefined)
      )
      const wanted = Object.keys(answers)
      yield* bench.sendAll(wanted)
      yield* bench.until("what asked for it came again", () => consumer.texts.length >= 7, () => consumer.texts)
      yield* bench.has(letters, ["letter"])
      yield* bench.has(consumer, wanted)
      yield* settled(bench, consumer)
      yield* bench.quiet
      yield* bench.sequence(
        "handled",
        consumer.texts,
        ["ack", "retry", "retry", "release", "release", "letter", "reject"]
      )
      yield* same("dead letters", letters.texts, ["letter"])
      yield* consumer.stop
      const second = yield* bench.reader()
      yield* bench.send("end")
      yield* bench.has(second, ["end"])
      yield* same("what came back", second.texts, ["end"])
    })
)

const classes: Scenario = scenario(
  "rule-2-classes",
  "rule 2: an error settles by its class, and a subscription may change the table",
  ["X5", "F11"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(({ attempt, raw }) => {
        const failure = Failure.classes.find((each) => each === textOf(raw))
        return attempt === 1 && failure !== undefined ? Effect.fail(trouble(failure)) : Effect.void
      }, { table: { auth: () => Outcome.Reject() } })
      const all = Failure.classes
      yield* bench.sendAll([...all, "end"])
      yield* bench.has(consumer, ["end"])
      yield* bench.until("five came again", () => consumer.got.length >= all.length + 6, () => consumer.texts)
      const retried = consumer.got.filter(({ attempt }) => attempt === 2).map(({ text }) => text)
      yield* bench.sequence("tried again", retried, ["transient", "throttled", "conflict", "timeout", "dependency"])
      yield* bench.has(letters, ["permanent", "poison", "validation", "defect"])
      yield* bench.quiet
      yield* bench.sequence("dead letters", letters.texts, ["permanent", "poison", "validation", "defect"])
    })
)

const interrupted: Scenario = scenario(
  "rule-3-interruption",
  "rule 3: an interrupted handler's message is delivered again, before the next of its lane",
  ["X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(({ attempt, raw }) =>
        attempt === 1 && textOf(raw) === "self"
          ? Effect.interrupt
          : attempt === 1 && textOf(raw) === "later"
          ? Effect.andThen(Effect.sleep(1), Effect.interrupt)
          : Effect.void
      )
      yield* bench.sendAll(["self", "later", "next"])
      yield* bench.has(consumer, ["next"])
      yield* bench.until("both came again", () => consumer.texts.length >= 5, () => consumer.texts)
      yield* bench.quiet
      yield* bench.sequence("handled", consumer.texts, ["self", "self", "later", "later", "next"])
      yield* same("dead letters", letters.texts, [])
    })
)

const durable: Scenario = scenario(
  "rule-4-durable",
  "rule 4: a message is acknowledged after what must last has lasted, and many share one commit",
  ["X9", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const stored = Deferred.makeUnsafe<void>()
      const commit = Deferred.await(stored)
      const wanted = numbered(10)
      const consumer = yield* bench.consumer((delivery) => {
        delivery.after(() => commit)
        return Effect.void
      })
      yield* bench.sendAll(wanted)
      yield* bench.has(consumer, wanted)
      yield* bench.quiet
      yield* same("acknowledged before", [told(bench), (yield* consumer.health).pending], [0, 10])
      yield* Deferred.succeed(stored, undefined)
      yield* settled(bench, consumer)
      yield* bench.until("it is acknowledged", () => told(bench) > 0)
      yield* consumer.stop
      const second = yield* bench.reader()
      yield* bench.send("end")
      yield* bench.has(second, ["end"])
      yield* same("what came back", second.texts, ["end"])
    }),
  { needs: ["redelivery"] }
)

const neverDurable: Scenario = scenario(
  "rule-4-never-durable",
  "rule 4: what has not become durable when a drain's time is over is not acknowledged, and comes back",
  ["X9", "X4"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const stored = Deferred.makeUnsafe<void>()
      const commit = Deferred.await(stored)
      const consumer = yield* bench.consumer((delivery) => {
        delivery.after(() => commit)
        return Effect.void
      }, { grace: { drain: "100 millis" } })
      // releases handlers that still wait when the scenario has failed
      yield* Effect.addFinalizer(() => Deferred.succeed(stored, undefined))
      yield* bench.sendAll(["m-0", "m-1"])
      yield* bench.has(consumer, ["m-0", "m-1"])
      yield* ends(bench, consumer)
      yield* same("acknowledged", told(bench), 0)
      const second = yield* bench.reader()
      yield* bench.has(second, ["m-0", "m-1"])
    }),
  { needs: ["redelivery"] }
)

const down = (operation: "publish", reason: BrokerError.Reason = "Unreachable") =>
  BrokerError.make({ system: "contract", operation, reason, message: "The contract suite took it down." })

const unwritten: Scenario = scenario(
  "rule-5-unwritten",
  "rule 5: while a dead letter cannot be written, its message waits unsettled, its lane too, and it is not handled again",
  ["F13", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      let refused = 0
      let open = false
      bench.monitor.faults.publish = ({ channel }) => {
        if (open || channel !== bench.deadLetters) return undefined
        refused++
        return down("publish")
      }
      const consumer = yield* bench.consumer(({ raw }) =>
        textOf(raw) === "bad" ? Effect.fail(trouble("permanent")) : Effect.void
      )
      yield* bench.sendAll(["bad", "next"])
      yield* bench.until("it was tried several times", () => refused >= 3, () => refused)
      const ordered = bench.capabilities.ordering !== "none"
      if (!ordered) yield* bench.has(consumer, ["next"])
      yield* same("handled meanwhile", consumer.texts, ordered ? ["bad"] : ["bad", "next"])
      yield* same("waiting meanwhile", (yield* consumer.health).pending, ordered ? 2 : 1)
      if (ordered) yield* same("acknowledged meanwhile", told(bench), 0)
      open = true
      yield* bench.has(consumer, ["next"])
      yield* bench.has(letters, ["bad"])
      yield* settled(bench, consumer)
      yield* same("handled", consumer.texts, ["bad", "next"])
      yield* same("dead letters", letters.texts, ["bad"])
    })
)

const lostWhileUnwritten: Scenario = scenario(
  "rule-5-drained",
  "rule 5: a drain does not acknowledge what has no dead letter yet: it comes back",
  ["F13", "X4"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      bench.monitor.faults.publish = ({ channel }) => channel === bench.deadLetters ? down("publish") : undefined
      const consumer = yield* bench.consumer(() => Effect.fail(trouble("permanent")))
      yield* bench.sendAll(["bad", "next"])
      yield* bench.has(consumer, ["bad"])
      yield* ends(bench, consumer)
      yield* same("acknowledged", told(bench), 0)
      const second = yield* bench.reader()
      yield* bench.has(second, ["bad", "next"])
      yield* bench.sequence("what came back", second.texts, ["bad", "next"])
    }),
  { needs: ["redelivery"] }
)

const stages: Scenario = scenario(
  "rule-6-stages",
  "rule 6: whatever stage fails, its message is settled and the next goes on",
  ["X5", "F13", "F3"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      bench.monitor.faults.publish = ({ channel }) => channel === "refused" ? down("publish", "Invalid") : undefined
      const received: Array<string> = []
      const failing = ["receive", "filter", "hook-throws", "hook-dies", "hook-fails", "publish", "answer"]
      const inner = (message: Message<Uint8Array>): ReturnType<Handle> => {
        switch (textOf(message.payload)) {
          case "publish":
            return Effect.suspend(() => bench.broker.publish(bench.message("m", { channel: "refused" })))
          case "hook-throws":
            message.after(() => {
              throw new TypeError("hook")
            })
            return Effect.void
          case "hook-dies":
            message.after(() => Effect.die("hook"))
            return Effect.void
          case "hook-fails":
            message.after(() => Effect.andThen(Effect.sleep(1), Effect.fail(trouble("permanent"))))
            return Effect.void
          case "answer":
            return Effect.succeed(Outcome.DeadLetter())
          default:
            return Effect.void
        }
      }
      const filtered = pipe(
        inner,
        Filter.middleware((message: Message<Uint8Array>) => {
          if (textOf(message.payload) === "filter") throw new TypeError("filter")
          return textOf(message.payload) !== "dropped"
        })
      )
      const consumer = yield* bench.consumer((delivery: Delivery) => {
        received.push(textOf(delivery.raw))
        if (textOf(delivery.raw) === "receive") throw new TypeError("receive")
        return filtered(delivery)
      })
      const wanted = failing.flatMap((text, i) => [text, `ok-${i}`])
      yield* bench.sendAll(["dropped", ...wanted])
      yield* bench.has(consumer, wanted)
      yield* bench.has(letters, failing)
      yield* settled(bench, consumer)
      // a hook that fails late keeps no lane blocked
      yield* same("dead letters", letters.texts.toSorted(), failing.toSorted())
      yield* bench.sequence("what receive saw", received, ["dropped", ...wanted])
    })
)

const begun: Scenario = scenario(
  "rule-7-done",
  "rule 7: a message is done when it has succeeded, not when it has arrived",
  ["X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const gate = Latch.makeUnsafe(false)
      const consumer = yield* bench.consumer(() => gate.await, { name: "begun" })
      yield* bench.send("m")
      yield* bench.has(consumer, ["m"])
      yield* bench.monitor.cut("begun")
      yield* bench.until("it came again", () => consumer.got.length === 2)
      yield* same("acknowledged", told(bench), 0)
      yield* gate.open
      yield* bench.until("it is acknowledged", () => told(bench) === 1)
      yield* bench.monitor.cut("begun")
      yield* bench.send("end")
      yield* bench.has(consumer, ["end"])
      yield* same("handled", consumer.texts, ["m", "m", "end"])
    }),
  { needs: ["redelivery"] }
)

const inPlace: Scenario = scenario(
  "rule-8-retry",
  "rule 8: a retry holds its lane and no other, is bounded, and never writes to its own channel",
  ["F11", "X3"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const others = numbered(5, "other")
      const consumer = yield* bench.consumer(
        ({ raw }) => textOf(raw) === "bad" ? Effect.fail(trouble("transient")) : Effect.void,
        { lanes: Lanes.key(4), hold: { attempts: 4 }, backoff: { base: 30, factor: 1, jitter: 0 } }
      )
      yield* bench.send("bad", { key: "k" })
      yield* bench.send("behind", { key: "k" })
      yield* bench.sendAll(others, (key) => ({ key }))
      yield* bench.has(consumer, ["behind"])
      yield* bench.has(letters, ["bad"])
      const { texts } = consumer
      const last = texts.lastIndexOf("bad")
      yield* same("attempts", texts.filter((text) => text === "bad").length, 4)
      yield* ensure(texts.indexOf("behind") > last, () => `the next of the key ran before: ${texts}`)
      yield* ensure(others.every((text) => texts.indexOf(text) < last), () => `other keys waited for it: ${texts}`)
      if (bench.capabilities.browse && bench.capabilities.retention) {
        yield* same("messages in the channel", (yield* browse(bench)).length, 7)
      }
      yield* bench.quiet
      yield* same("dead letters", letters.texts, ["bad"])
    }),
  { needs: ["order"] }
)

const retryAfter: Scenario = scenario(
  "rule-9-retry-after",
  "rule 9: what says when to come back is delivered again then, of whatever class and however often",
  ["F11", "F12"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(
        ({ attempt }) =>
          attempt < 6
            ? Effect.fail(trouble(attempt % 2 === 0 ? "throttled" : "permanent", Duration.millis(5)))
            : Effect.void,
        { hold: { attempts: 2 } }
      )
      yield* bench.send("m")
      yield* bench.until("it is done", () => consumer.done.length === 1)
      yield* same("attempts", consumer.got.map(({ attempt }) => attempt), [1, 2, 3, 4, 5, 6])
      yield* bench.quiet
      yield* same("dead letters", letters.texts, [])
    })
)

const capped: Scenario = scenario(
  "rule-10-capped",
  "rule 10: what a dead letter says of its error is cut",
  ["F13"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const message = "é".repeat(100_000)
      yield* bench.consumer(() => Effect.fail(new Trouble({ failure: "permanent", message })))
      yield* bench.send("m")
      yield* bench.has(letters, ["m"])
      const kept = letters.got[0]!.delivery.headers[DeadLetters.names.errorMessage] ?? ""
      yield* ensure(
        kept.length > 100 && kept.length <= DeadLetters.maximumMessage && message.startsWith(kept.slice(0, -1)),
        () => `it keeps ${kept.length} characters of the error, ${DeadLetters.maximumMessage} is the most`
      )
    })
)

export const settling: ReadonlyArray<Scenario> = [
  outcomes,
  classes,
  interrupted,
  durable,
  neverDurable,
  unwritten,
  lostWhileUnwritten,
  stages,
  begun,
  inPlace,
  retryAfter,
  capped
]
