/** Runs one history after another, until one fails. */
import { OptionCheck } from "@millrace/core"
import { Cause, Data, Effect } from "effect"
import { run } from "./Machine.ts"
import type { History, World } from "./World.ts"

/** The log lines that fit into an error message; a replay prints all. */
const room = 200

/** A failed history: its faults, the command to replay it, and a readable log. */
export class Failed extends Data.TaggedError("SimulationFailed")<{
  readonly seed: number
  /** The faults, in order of occurrence. */
  readonly faults: ReadonlyArray<string>
  /** The log, each line with its virtual time. */
  readonly log: ReadonlyArray<string>
  /** The command to replay the history. */
  readonly replay: string
}> {
  override get message(): string {
    const { faults, log, replay, seed } = this
    const lines = log.length > room ? [`… ${log.length - room} lines before`, ...log.slice(-room)] : log
    return [`seed ${seed}: ${faults[0]}`, ...faults.slice(1, 10), `again: ${replay}`, ...lines].join("\n  ")
  }
}

/** The histories to run. */
export interface CheckOptions {
  /** The first seed; an integer. Default: 0. */
  readonly from?: number | undefined
  /** The number of seeds; an integer from 1. Default: 1,000. */
  readonly seeds?: number | undefined
  /** Steps after which a history is a livelock. Default: 20 million. */
  readonly steps?: number | undefined
  /** The text in a failure that says how to replay one seed. Default: a call of `check`. */
  readonly replay?: ((seed: number) => string) | undefined
}

/** Totals of the histories that ran. */
export interface Checked {
  readonly seeds: number
  readonly steps: number
  /** Virtual milliseconds of all histories together. */
  readonly milliseconds: number
}

/** The faults of a history; empty if it held. */
export const faultsOf = <A, E>({ exit, faults }: History<A, E>): ReadonlyArray<string> =>
  exit._tag === "Success" || faults.length > 0 ? faults : [Cause.pretty(exit.cause)]

const option = OptionCheck.make("Simulation.check")

/**
 * Runs a program in one world after the other, a seed for each, and fails with the first history that does not hold:
 * `world.expect` was not met, the program failed, or it stood still. That seed is run again with its log; if the replay
 * differs, the program reads data from outside its world, and the failure says so.
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
      // lets the caller interrupt the check
      yield* Effect.yieldNow
    }
    return { seeds, steps, milliseconds }
  })
}
