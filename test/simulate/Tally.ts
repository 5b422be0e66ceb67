import type { Simulation } from "@millrace/testing"
import type { Event, Rule } from "./rules.ts"

const count = <Key>(counts: Map<Key, number>, key: Key): void => {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

/** Which rules a history checked, and what happened in it. */
export class Tally {
  readonly checked = new Map<Rule, number>()
  readonly happened = new Map<Event, number>()
  protected readonly world: Simulation.World

  constructor(world: Simulation.World) {
    this.world = world
  }

  check(rule: Rule, holds: boolean, otherwise: () => string): void {
    count(this.checked, rule)
    if (!holds) this.world.expect(false, () => `${rule}: ${otherwise()}`)
  }

  note(event: Event): void {
    count(this.happened, event)
  }
}
