/**
 * Pauses the intake of a subscription: the intake is closed while at least one owner pauses it.
 */
import { Clock, Context, Effect, type Fiber } from "effect"
import type { Intake, Pause } from "../../broker/Intake.ts"

interface Entry extends Pause {
  readonly timer: Fiber.Fiber<void> | undefined
}

/** The pauses of one subscription, by owner. */
export class PauseControl implements Intake {
  private readonly owners = new Map<object, Entry>()
  private readonly context: Context.Context<never>
  private readonly clock: Clock.Clock
  private readonly turn: (isOpen: boolean) => void
  private isEnded = false

  /** `turn` is called synchronously when the intake opens and when it closes. */
  constructor(context: Context.Context<never>, turn: (isOpen: boolean) => void) {
    this.context = context
    this.clock = Context.get(context, Clock.Clock)
    this.turn = turn
  }

  pause(owner: object, by: string, milliseconds?: number): void {
    if (this.isEnded) return
    this.owners.get(owner)?.timer?.interruptUnsafe()
    const end = milliseconds === undefined ? undefined : {
      until: this.clock.currentTimeMillisUnsafe() + milliseconds,
      timer: Effect.runForkWith(this.context)(Effect.sleep(milliseconds))
    }
    const wasOpen = this.owners.size === 0
    this.owners.set(owner, { by, until: end?.until, timer: end?.timer })
    if (wasOpen) this.turn(false)
    end?.timer.addObserver((exit) => {
      if (exit._tag === "Success") this.resume(owner)
    })
  }

  resume(owner: object): void {
    const entry = this.owners.get(owner)
    if (entry === undefined) return
    this.owners.delete(owner)
    entry.timer?.interruptUnsafe()
    if (this.owners.size === 0) this.turn(true)
  }

  pauses(): ReadonlyArray<Pause> {
    return Array.from(this.owners.values(), ({ by, until }) => ({ by, until }))
  }

  /** Ends all timers and ignores later pauses, for a drain: a timer would keep the process alive. */
  end(): void {
    this.isEnded = true
    for (const { timer } of this.owners.values()) timer?.interruptUnsafe()
  }
}
