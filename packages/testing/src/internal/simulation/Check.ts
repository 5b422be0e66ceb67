/**
 * Histories in a row, until one does not hold.
 */
import { OptionCheck } from "@millrace/core"
import { Cause, Data, Effect } from "effect"
import { run } from "./Machine.ts"
import type { History, World } from "./World.ts"

/** Lines of a log that a message has room for; a replay prints them all. */
const room = 200

/** A history that did not hold: what was wrong, how to run it again, and a log that can be read. */
export class Failed extends Data.TaggedError("SimulationFailed")<{
  readonly seed: number
  /** What was wrong, the first first. */
  readonly faults: ReadonlyArray<string>
  /** What happened, each line with its virtual time. */
  readonly log: ReadonlyArray<string>
  /** How to run it again. */
  readonly replay: string
}> {
  override get message(): string {
    const { faults, log, replay, seed } = this
    const lines = log.length > room ? [`… ${log.length - room} lines before`, ...log.slice(-room)] : log
    return [`seed ${seed}: ${faults[0]}`, ...faults.slice(1, 10), `again: ${replay}`, ...lines].join("\n  ")
  }
}

/** Which histories are run. */
export interface CheckOptions {
  /** The first seed; an integer. Default: 0. */
  readonly from?: number | undefined
  /** How many seeds; an integer from 1. Default: 1,000. */
  readonly seeds?: number | undefined
  /** Steps after which a history is a livelock. Default: 20 million. */
  readonly steps?: number | undefined
  /** What a failure says of how to run one seed again. Default: a call of `check`. */
  readonly replay?: ((seed: number) => string) | undefined
}

/** What was run. */
export interface Checked {
  readonly seeds: number
  readonly steps: number
  /** Virtual milliseconds of all histories together. */
  readonly milliseconds: number
}

/** What was wrong with a history; nothing where it held. */
export const faultsOf = <A, E>({ exit, faults }: History<A, E>): ReadonlyArray<string> =>
  exit._tag === "Success" || faults.length > 0 ? faults : [Cause.pretty(exit.cause)]

const option = OptionCheck.make("Simulation.check")

/**
 * Runs a program in one world after the other, a seed for each, and fails with the first that does not hold: where
 * `world.expect` was not met, the program failed, or it stood still. That seed is run again with its log; one that goes
 * another way then reads something outside its world, and the failure says so.
 *
 * A history takes no real time beyond its computing: some hundred to a thousand run in a second.
 *
 * @throws RangeError when an option is out of range
 */
export const check = <A, E>(
  program: (world: World) => Effect.Effect<A, E>,
  options: CheckOptions = {}
): Effect.Effect<Checked, Failed> => {
  const from = option.count("from", options.from ?? 0, { least: 0 })
  const seeds = option.count("seeds", options.seeds ?? 1000)
  const { steps: most } = options
  const replay = options.replay ?? ((seed) => `Simulation.check(program, { from: ${seed}, seeds: 1 })`)
  return Effect.gen(function*() {
    let steps = 0
    let milliseconds = 0
    for (let seed = from; seed < from + seeds; seed++) {
      const history = run(seed, program, { steps: most })
      steps += history.steps
      milliseconds += history.milliseconds
      const faults = faultsOf(history)
      if (faults.length > 0) {
        const again = run(seed, program, { steps: most, record: true })
        const strays = faultsOf(again)[0] === faults[0]
          ? []
          : ["its replay goes another way: the program reads time, chance or a Promise from outside its world"]
        return yield* new Failed({ seed, faults: [...faults, ...strays], log: again.log, replay: replay(seed) })
      }
      // whoever waits for it may stop it
      yield* Effect.yieldNow
    }
    return { seeds, steps, milliseconds }
  })
}
