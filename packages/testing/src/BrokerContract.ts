/**
 * The contract of every broker, as one suite: scenarios that run unchanged on any driver, and prove the features that a
 * driver declares to lack.
 */
import { type Driver, OptionCheck } from "@millrace/core"
import { Cause, type Duration, Effect, Exit, References, Scope } from "effect"
import { afterAll, beforeAll, describe, it } from "vitest"
import { Bench, Broken, unique } from "./internal/contract/Bench.ts"
import { content } from "./internal/contract/Content.ts"
import { delaying } from "./internal/contract/Delaying.ts"
import { faults } from "./internal/contract/Faults.ts"
import { groups } from "./internal/contract/Groups.ts"
import { instructions } from "./internal/contract/Instructions.ts"
import { letters } from "./internal/contract/Letters.ts"
import { moving } from "./internal/contract/Moving.ts"
import { ordering } from "./internal/contract/Ordering.ts"
import { publishing } from "./internal/contract/Publishing.ts"
import { refused } from "./internal/contract/Refused.ts"
import {
  type Failures,
  type Feature,
  type Fields,
  lacks,
  type Outage,
  refusals,
  type Scenario
} from "./internal/contract/Scenario.ts"
import { settling } from "./internal/contract/Settling.ts"

export { Broken } from "./internal/contract/Bench.ts"
export type { Failures, Feature, Fields, Outage, Scenario } from "./internal/contract/Scenario.ts"

/** A broker under test. */
export interface Subject extends Outage {
  readonly driver: Driver.Driver
}

/** The properties that the author of a broker declares beside its `Capabilities`. */
export interface Options {
  /** Whether subscribing or publishing to a missing channel creates it or is refused. */
  readonly missing: "created" | "refused"
  /**
   * The header fields that the broker can hold beyond one text for each lower-case name; all others must be refused.
   * Default: all of `duplicate`, `binary`, `null`, `case` and `control`.
   */
  readonly fields?: ReadonlyArray<Fields> | undefined
  /**
   * Instructions to the broker that a header field can give (see `instructions` of the capabilities), each with a value that
   * keeps a message in its channel for some minutes. Default: none.
   */
  readonly instructions?: Readonly<Record<string, string>> | undefined
  /** The longest body in bytes. Default: the driver's `maximumBytes`; if both are undefined, any length must go through. */
  readonly maximumBytes?: number | undefined
  /** How long a scenario waits until an event happens. Default: 30 seconds. */
  readonly patience?: Duration.Input | undefined
  /** How long a scenario waits for an event that must not happen. Default: 30 milliseconds. */
  readonly quiet?: Duration.Input | undefined
}

/** The result of a scenario: the promise holds, or the driver lacks these features and declares so. */
export interface Verdict {
  readonly scenario: string
  readonly lacks: ReadonlyArray<Feature>
}

/** The results of a suite so far: complete when its last test is over. */
export interface Shown {
  readonly capabilities: Driver.Capabilities | undefined
  /** By the id of the scenario, without failed ones. */
  readonly verdicts: ReadonlyMap<string, Verdict>
}

/** Every promise of the contract. Each scenario runs on a channel and groups of its own. */
export const scenarios: ReadonlyArray<Scenario> = [
  ...publishing,
  ...groups,
  ...content,
  ...ordering,
  ...moving,
  ...settling,
  ...delaying,
  ...letters,
  ...instructions,
  ...refused,
  ...faults
]

const check = OptionCheck.make("BrokerContract")

/**
 * Runs one scenario on a broker: the promise itself if the driver has the features, else the proof of each one it lacks.
 *
 * Fails with a `Broken` that names the expected and the actual result, or with an unexpected `BrokerError`. For programs
 * without vitest; it runs on the clock of its program.
 *
 * @throws RangeError when an option is out of range
 */
export const run = (scenario: Scenario, subject: Subject, options: Options): Effect.Effect<Verdict, Failures> => {
  const times = {
    patience: check.millis("patience", options.patience ?? 30_000),
    quiet: check.millis("quiet", options.quiet ?? 30)
  }
  const declared = {
    missing: options.missing,
    fields: options.fields ?? ["duplicate", "binary", "null", "case", "control"],
    instructions: options.instructions ?? {},
    maximumBytes: options.maximumBytes ?? subject.driver.capabilities.maximumBytes,
    outage: subject
  } as const
  return Effect.scoped(Effect.gen(function*() {
    const scope = yield* Effect.scope
    const bench = new Bench(subject.driver, yield* unique(scenario.id), scope, times)
    const lacking = lacks(scenario.needs, bench, declared)
    if (lacking.length === 0) {
      yield* scenario.run(bench, declared)
      yield* bench.verify
    } else {
      for (const feature of lacking) {
        const own = new Bench(subject.driver, yield* unique(`${scenario.id}.${feature.split(" ")[0]}`), scope, times)
        yield* refusals[feature](own, declared)
        yield* own.verify
      }
    }
    return { scenario: scenario.id, lacks: lacking }
  })).pipe(
    // the suite causes the engine's warnings and errors on purpose
    Effect.provideService(References.MinimumLogLevel, "None"),
    Effect.catchDefect((defect) =>
      Effect.fail(new Broken({ message: `${scenario.id} died: ${Cause.pretty(Cause.die(defect))}` }))
    )
  )
}

/**
 * Registers the suite by vitest's `describe`: one test for each scenario. If the driver lacks features that a scenario
 * needs, the test proves their lack and names them in its annotation. No scenario is skipped.
 *
 * Returns the results, test by test, e.g. for a table of brokers.
 *
 * `make` runs once, before the first test; its scope closes after the last. Scenarios run concurrently; those that take the
 * broker down run alone, after the others.
 *
 * **Example** (your own driver)
 *
 * ```ts
 * import { MemoryBroker } from "@millrace/core"
 * import { BrokerContract } from "@millrace/testing"
 * import { Effect } from "effect"
 *
 * export const register = () =>
 *   BrokerContract.suite("memory", Effect.map(MemoryBroker.make(), (memory) => ({ ...memory, keeps: true })), {
 *     missing: "created"
 *   })
 * ```
 *
 * @throws RangeError when an option is out of range
 */
export const suite = <E>(
  name: string,
  make: Effect.Effect<Subject, E, Scope.Scope>,
  options: Options
): Shown => {
  const shown: { capabilities: Driver.Capabilities | undefined; readonly verdicts: Map<string, Verdict> } = {
    capabilities: undefined,
    verdicts: new Map()
  }
  const patience = check.millis("patience", options.patience ?? 30_000)
  describe(`Broker contract: ${name}`, () => {
    const scope = Scope.makeUnsafe()
    let made: Exit.Exit<Subject, E> | undefined
    beforeAll(async () => {
      made = await Effect.runPromiseExit(Scope.provide(make, scope))
    }, 10 * patience)
    afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)), 10 * patience)

    const test =
      (scenario: Scenario) => async (context: { readonly annotate: (message: string) => Promise<unknown> }) => {
        if (made === undefined || made._tag === "Failure") {
          throw new Error(`The broker could not be made: ${made === undefined ? "" : Cause.pretty(made.cause)}`)
        }
        const verdict = await Effect.runPromise(run(scenario, made.value, options))
        shown.capabilities = made.value.driver.capabilities
        shown.verdicts.set(scenario.id, verdict)
        if (verdict.lacks.length > 0) await context.annotate(`lacks ${verdict.lacks.join(", ")}, and proved it`)
      }
    const title = ({ id, rows, title }: Scenario) => `${rows.join(" ")} ${id}: ${title}`
    for (const scenario of scenarios) {
      if (!scenario.alone) it.concurrent(title(scenario), { timeout: 10 * patience }, test(scenario))
    }
    for (const scenario of scenarios) {
      if (scenario.alone) it(title(scenario), { timeout: 10 * patience }, test(scenario))
    }
  })
  return shown
}
