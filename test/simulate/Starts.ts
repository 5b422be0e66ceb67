/**
 * Starts of subscriptions whose dead letter channel cannot be declared: the subscription runs in time, and says so.
 */
import type { Driver } from "@millrace/core"
import type { Simulation } from "@millrace/testing"
import { Effect } from "effect"
import type { Consumer } from "./records.ts"
import type { Settings, Subject } from "./settings.ts"
import type { Tally } from "./Tally.ts"

/** Milliseconds for which a start waits for the answer to a declaration, and what the rest of it takes. */
const longest = 5_000 + 100

/** How a declaration goes wrong. */
const ways = ["fails", "dies", "throws", "silent", undefined] as const

/** The start of one consumer. */
export class Start {
  /** When its source was ready. */
  private ready: number | undefined
  private isDeclaring = false
  private readonly way: (typeof ways)[number]
  private readonly world: Simulation.World
  private readonly tally: Tally
  private readonly settings: Settings
  private readonly subject: Pick<Subject, "BrokerError">

  constructor(world: Simulation.World, tally: Tally, settings: Settings, subject: Pick<Subject, "BrokerError">) {
    this.world = world
    this.tally = tally
    this.settings = settings
    this.subject = subject
    this.way = settings.has.undeclared ? world.pick(ways) : undefined
  }

  /** The broker as the consumer sees it. */
  driver(driver: Driver.Driver): Driver.Driver {
    if (!this.settings.has.undeclared) return driver
    return {
      ...driver,
      declare: (declaration) => {
        this.isDeclaring = true
        if (this.way === undefined) return driver.declare(declaration)
        this.tally.note("undeclared channel")
        const message = "The channel cannot be declared."
        if (this.way === "throws") throw new Error(message)
        if (this.way === "dies") return Effect.die(new Error(message))
        if (this.way === "silent") return Effect.never
        return Effect.fail(
          this.subject.BrokerError.make({ system: "memory", operation: "declare", reason: "Permission", message })
        )
      },
      consume: (options, sink) =>
        driver.consume(options, {
          ...sink,
          ready: () => {
            this.ready ??= this.world.now()
            sink.ready()
          }
        })
    }
  }

  /** The subscription runs. */
  running({ name, said }: Consumer): void {
    const { ready, tally, way, world } = this
    if (!this.settings.has.undeclared) return
    const took = world.now() - (ready ?? 0)
    tally.check(
      "start",
      ready !== undefined && took <= longest,
      () => `${name} runs ${took} ms after its source was ready`
    )
    if (way === undefined || !this.isDeclaring) return
    const lines = said?.lines.filter(({ text }) => text.includes("could not be declared")).length
    tally.check("start", lines === 1, () => `${name} runs without its dead letter channel, and says so ${lines} times`)
  }

  /** The subscription did not start, or the history is over and it has not yet. */
  missing({ draining, killed, name }: Consumer, why: () => string): void {
    if (!this.settings.has.undeclared || this.ready === undefined || killed || draining !== undefined) return
    this.tally.check("start", false, () => `${name} was ready, and does not run: ${why()}`)
  }
}
