/**
 * The lives of one source: it is started again after each, and the wait grows while they fail.
 */
import type { Simulation } from "@millrace/testing"
import type { Settings } from "./settings.ts"

const epsilon = 0.01

/** The lives of the source of one consumer. */
export class Restarts {
  private readonly world: Simulation.World
  private readonly restart: Settings["restart"]
  private began = 0
  private ended: number | undefined
  /** Lives in a row in which nothing was settled. */
  private failures = 0

  constructor(world: Simulation.World, { restart }: Pick<Settings, "restart">) {
    this.world = world
    this.restart = restart
  }

  /** A life begins: answers how much too early, in milliseconds; undefined for the first one. */
  begin(): number | undefined {
    const { base, cap } = this.restart
    const before = this.began
    this.began = this.world.now()
    if (this.ended === undefined) return undefined
    // a source that has lived for long is a good one, and so are the handlers that it waits for at its end
    if (this.began - base - before >= cap - epsilon) this.failures = 0
    const least = Math.min(cap, base * 2 ** this.failures)
    const early = least - (this.began - this.ended)
    this.failures++
    this.ended = undefined
    return early > epsilon ? early : 0
  }

  /** The broker took a commit or a settlement. */
  settled(): void {
    this.failures = 0
  }

  end(): void {
    this.ended ??= this.world.now()
  }
}
