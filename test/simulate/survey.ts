/**
 * Histories in a row, and what they have covered.
 */
import { Simulation } from "@millrace/testing"
import { Effect } from "effect"
import { history } from "./history.ts"
import { type Event, events, kindOf, type Rule, rules } from "./rules.ts"
import { kinds, type Subject } from "./settings.ts"

/** Whether histories can have it: its kind of trouble is switched on. */
const isOn = (name: Rule | Event): boolean => {
  const kind = kindOf[name]
  return kind === undefined || kinds[kind] > 0
}

/** How often each rule was checked and each event happened, over many histories. */
export class Coverage {
  // the keys of an object literal are the names of its type
  private readonly rules = new Map((Object.keys(rules) as Array<Rule>).filter(isOn).map((name) => [name, 0]))
  private readonly events = new Map((Object.keys(events) as Array<Event>).filter(isOn).map((name) => [name, 0]))

  add(checked: ReadonlyMap<Rule, number>, happened: ReadonlyMap<Event, number>): void {
    for (const [name, times] of checked) this.rules.set(name, (this.rules.get(name) ?? 0) + times)
    for (const [name, times] of happened) this.events.set(name, (this.events.get(name) ?? 0) + times)
  }

  /** What was seen less often than it must be: a rule that nothing puts to the test proves nothing. */
  rare(least: number): ReadonlyArray<string> {
    return [...this.rules, ...this.events].filter(([, times]) => times < least).map(([name, times]) =>
      `${name}: ${times}`
    )
  }

  print(): string {
    const table = (title: string, counts: ReadonlyMap<string, number>) => [
      title,
      ...Array.from(counts, ([name, times]) => `  ${name.padEnd(30)}${times.toLocaleString("en").padStart(12)}`)
    ]
    return [...table("checked", this.rules), ...table("happened", this.events)].join("\n")
  }
}

/** How a seed is run again by hand. */
export const command = (seed: number, plant?: string): string =>
  `npx -y pnpm@12 simulate --seed ${seed}${plant === undefined ? "" : ` --plant ${plant}`}`

/**
 * What runs in each world. A replay must run the very same: one step more, and the seed is another history.
 */
export const program = (subject: Subject, coverage: Coverage) => (world: Simulation.World): Effect.Effect<void> =>
  Effect.map(history(subject)(world), ({ checked, happened }) => coverage.add(checked, happened))

/** Runs histories of the engine until one does not hold. */
export const survey = (
  subject: Subject,
  options: { readonly from: number; readonly seeds: number; readonly plant?: string | undefined },
  coverage = new Coverage()
): Effect.Effect<Simulation.Checked, Simulation.Failed> =>
  Simulation.check(program(subject, coverage), {
    from: options.from,
    seeds: options.seeds,
    replay: (seed) => command(seed, options.plant)
  })
