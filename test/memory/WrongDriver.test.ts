import { BrokerError, type Driver, Features, Headers, MemoryBroker, type Outgoing } from "@millrace/core"
import { BrokerContract } from "@millrace/testing"
import { Duration, Effect, Exit, Stream } from "effect"
import { assert, describe, it } from "vitest"
import { type Wrong, wrongs } from "./wrongDrivers.ts"

/** How long a scenario waits for what a right driver does at once. */
const short = "600 millis"
const long = "10 seconds"

const failureWithin = ({ claim, form = "position", make }: Wrong, id: string, patience: Duration.Input) =>
  Effect.gen(function*() {
    const scenario = BrokerContract.scenarios.find((each) => each.id === id)
    if (scenario === undefined) return yield* Effect.die(new Error(`There is no scenario ${id}`))
    const { driver, start, stop } = yield* MemoryBroker.make({
      settlement: form,
      claim: claim === undefined ? undefined : Duration.millis(claim),
      maximumBytes: 1024 * 1024
    })
    const subject = { driver: { ...driver, ...make(driver) }, start, stop, keeps: true }
    return yield* Effect.flip(BrokerContract.run(scenario, subject, { missing: "created", patience }))
  })

/** The failure of a scenario; it dies where the scenario passes. */
const failure = (wrong: Wrong, id: string) => failureWithin(wrong, id, short)

/** The failure that `found` and `says` describe. On a busy machine the patience may end before the fault shows: then with more. */
const describedFailure = (wrong: Wrong) =>
  Effect.flatMap(
    failureWithin(wrong, wrong.found, short),
    (error) => wrong.says.test(textOf(error)) ? Effect.succeed(error) : failureWithin(wrong, wrong.found, long)
  )

/** The text that `says` is tried on. */
const textOf = (error: { readonly _tag: string; readonly message: string }): string => `${error._tag} ${error.message}`

/** Scenarios that no wrong driver is there for alone, each with one that fails it, too. */
const others: Record<string, string> = {
  "publish-subscribe": "drops headers",
  "publish-many-channels": "reorders a batch on its way in",
  "publish-features": "drops the mark of tombstones",

  "payload-empty": "takes an empty body for a tombstone",
  "payload-huge": "writes bodies as text",
  unicode: "ignores keys",
  "headers-repeated": "keeps one field of each name",
  "headers-native-rule": "ignores keys that are no text",
  redelivery: "reorders a batch on its way in",
  "order-partition": "does not keep the claims of what is being handled",
  "order-unordered": "reorders a batch on its way in",
  "order-unacknowledged": "reorders a batch on its way out",
  "gap-cut": "never commits",
  "saturation-bytes": "does not wait for room",
  rebalance: "delivers again, and says that it does not",
  "added-partitions": "declares over what is there",
  drain: "gives each consumer of a group all messages",
  "start-stop": "does not tell that a partition was taken away",
  competing: "offers more at once than it was asked for",
  "continue-after-close": "acknowledges what it has only offered",
  "continue-after-errors": "acknowledges each message as it is offered",
  health: "ignores keys",
  "rule-1-outcomes": "stays in the group after a drain",
  "rule-2-classes": "reorders a batch on its way out",
  "rule-3-interruption": "reorders a batch on its way in",
  "rule-4-durable": "never commits",
  "rule-4-never-durable": "takes what is given back for done",
  "rule-5-unwritten": "reorders a batch on its way out",
  "rule-5-drained": "commits past a gap, to the last that was offered",
  "rule-6-stages": "reorders a batch on its way in",
  "rule-8-retry": "ignores keys",
  "rule-10-capped": "drops headers",
  "retry-unordered": "reorders a batch on its way in",
  "delay-restart": "acknowledges what it has only offered",
  "delay-bounded": "delivers each message twice",
  "dead-letter": "drops key bytes",
  "dead-letter-once": "drops headers",
  "dead-letter-replay-group": "drops headers",
  "transport-instructions-replay": "gives copies the instructions of its options",
  "refused-error": "drops headers",
  "refused-headers": "drops headers",
  "refused-body": "drops headers",
  "refused-delay": "reorders a batch on its way in",
  poison: "writes bodies as text",
  defect: "drops headers",
  "dead-letter-tombstone": "drops the mark of tombstones",
  cut: "delivers again, and says that it does not",
  "settle-fails": "acknowledges each message as it is offered"
}

describe("X5 a wrong driver fails the contract", () => {
  it("X5 each scenario has one that fails it", () => {
    const found = new Set([...wrongs.map((wrong) => wrong.found), ...Object.keys(others)])
    assert.deepStrictEqual(BrokerContract.scenarios.map(({ id }) => id).filter((id) => !found.has(id)), [])
  })

  for (const [id, fault] of Object.entries(others)) {
    it.concurrent(`X5 ${id} fails one that ${fault}`, async () => {
      const wrong = wrongs.find((each) => each.fault === fault)
      assert.isDefined(wrong)
      await Effect.runPromise(failure(wrong, id))
    })
  }

  for (const wrong of wrongs) {
    it.concurrent(`X5 one that ${wrong.fault} fails ${wrong.found}`, async () => {
      assert.match(textOf(await Effect.runPromise(describedFailure(wrong))), wrong.says)
    })
  }
})

/** A right driver that has less, and refuses what it has not. */
const refusing = (right: Driver.Driver): Driver.Driver => {
  const unsupported = (operation: "publish" | "browse" | "declare") =>
    BrokerError.make({ system: "small", operation, reason: "Unsupported", message: "This broker has none." })
  const isText = ([name, value]: Headers.Field) =>
    name === name.toLowerCase() && /^\P{Cc}*$/u.test(Headers.textOf(value) ?? "\0")
  const text = ({ native: { fields = [] } = {} }: Outgoing<Uint8Array>) =>
    fields.every(isText) && new Set(fields.map(([name]) => name)).size === fields.length
  const capabilities: Driver.Capabilities = {
    ...right.capabilities,
    browse: false,
    tombstones: false,
    partitions: false,
    timestamps: "none",
    ordering: "channel"
  }
  return {
    ...right,
    capabilities,
    browse: () => Stream.fail(unsupported("browse")),
    publish: (batch) =>
      batch.some((message) => Features.refuse("small", capabilities, message) !== undefined || !text(message))
        ? Exit.fail(unsupported("publish"))
        : right.publish(batch),
    declare: (declaration) =>
      declaration.partitions === undefined
        ? right.declare({ ...declaration, partitions: 1 })
        : Effect.fail(unsupported("declare"))
  }
}

BrokerContract.suite(
  "X5 a memory broker that has less, and proves it",
  Effect.map(MemoryBroker.make({ settlement: "message", partitions: 1 }), ({ driver, start, stop }) => ({
    driver: refusing(driver),
    start,
    stop,
    keeps: true
  })),
  { missing: "created", fields: [], patience: "5 seconds" }
)
