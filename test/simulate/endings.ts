/**
 * How runs of the handler end, and what must last: each with the outcome that it has to come to.
 */
import type * as Core from "@millrace/core"
import type { Simulation } from "@millrace/testing"
import { Data, Duration, Effect, Exit } from "effect"
import type { Run, Waits } from "./records.ts"
import type { Subject } from "./settings.ts"

/** Carries its class. */
export class Trouble extends Data.TaggedError("Trouble")<{
  readonly failure: Core.Failure.FailureClass
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
}> {}

/** Settled by its entry. */
export class Named extends Data.TaggedError("Named")<{ readonly message: string }> {}

/** Its entry throws. */
export class Nasty extends Data.TaggedError("Nasty")<{ readonly message: string }> {}

/** Its getters throw; the class alone can be read. */
export class Unreadable {
  readonly failure: "transient" | "permanent"

  constructor(failure: "transient" | "permanent") {
    this.failure = failure
  }

  get _tag(): "Unreadable" {
    throw new Error("the getter of _tag throws")
  }

  get name(): string {
    throw new Error("the getter of name throws")
  }

  get message(): string {
    throw new Error("the getter of message throws")
  }
}

/** An `Error` whose message cannot be read, as proxies of other libraries are. */
export class Mute extends Error {
  readonly failure = "permanent"
  readonly _tag = "Mute"

  override get message(): string {
    throw new Error("the getter of message throws")
  }
}

/** An `Error` whose fields are not what they are declared to be. */
const odd = (): Error => Object.assign(new Error("odd"), { name: undefined, message: { not: "a text" } })

export type Mishap = Trouble | Named | Nasty | Unreadable | Mute

/** How a run ends. */
export const ending = (
  world: Simulation.World,
  { Outcome }: Subject,
  run: Run,
  isStormy: boolean,
  hasThrowing: boolean
): () => Effect.Effect<unknown, Mishap> => {
  const { chance, integer, pick } = world
  const answer = (outcome: Core.Outcome.Outcome) => {
    run.expected = outcome._tag
    return () => Exit.succeed(outcome)
  }
  const fails = (error: Mishap, expected: Run["expected"]) => {
    run.expected = expected
    return () => Exit.fail(error)
  }
  const message = chance(0.1) ? "x".repeat(5000) : "no"
  if (isStormy && run.entry.isStubborn) return fails(new Trouble({ failure: "transient", message }), "Retry")
  if (!isStormy || chance(0.55)) return () => Exit.succeed(1)
  if (hasThrowing && chance(0.3)) return unreadable(world, run)
  switch (
    pick([
      "retry",
      "after",
      "dead",
      "reject",
      "release",
      "transient",
      "permanent",
      "throttled",
      "named",
      "nasty",
      "die",
      "throw",
      "interrupt"
    ])
  ) {
    case "retry":
      return answer(Outcome.Retry())
    case "after":
      run.after = integer(0, 40)
      return answer(Outcome.Retry({ after: run.after }))
    case "dead":
      return answer(Outcome.DeadLetter(new Error(message)))
    case "reject":
      return answer(Outcome.Reject())
    case "release":
      return answer(Outcome.Release)
    case "transient":
      return fails(new Trouble({ failure: "transient", message }), "Retry")
    case "permanent":
      return fails(new Trouble({ failure: "permanent", message }), "DeadLetter")
    case "throttled":
      run.after = integer(0, 40)
      return fails(new Trouble({ failure: "throttled", message, retryAfter: Duration.millis(run.after) }), "Retry")
    case "named":
      return fails(new Named({ message }), "Reject")
    case "nasty":
      return fails(new Nasty({ message }), "DeadLetter")
    case "interrupt":
      run.expected = "Release"
      run.selfInterrupt = true
      return () => Effect.interrupt
    case "die":
      run.expected = "DeadLetter"
      return () => Exit.die(new Error(message))
    default:
      run.expected = "DeadLetter"
      return () => {
        throw new Error(message)
      }
  }
}

/** A run that fails for good. */
export const doomed = (run: Run) => {
  run.expected = "DeadLetter"
  return (): Effect.Effect<never, Mishap> => Exit.fail(new Trouble({ failure: "permanent", message: "doomed" }))
}

/** Endings that a careful handler does not have: errors that cannot be read, and no answer at all. */
const unreadable = ({ pick }: Simulation.World, run: Run): () => Effect.Effect<unknown, Mishap> => {
  run.expected = "DeadLetter"
  switch (pick(["transient", "permanent", "mute", "odd", "undefined", "constructor"])) {
    case "transient":
      run.expected = "Retry"
      return () => Exit.fail(new Unreadable("transient"))
    case "permanent":
      return () => Exit.fail(new Unreadable("permanent"))
    case "mute":
      return () => Exit.fail(new Mute())
    case "odd":
      return () => Exit.die(odd())
    case "constructor":
      return () => Exit.die(Object.assign(new Error("a tag that every object has"), { _tag: "constructor" }))
    default:
      // JavaScript that forgets its return
      return () => undefined as never
  }
}

/** How something that must last fails. */
export const trouble = (
  { integer, pick }: Simulation.World
): { readonly exit: Exit.Exit<void, Trouble>; readonly failed: Waits["failed"] } => {
  const message = "hook"
  switch (pick(["transient", "permanent", "throttled", "die", "interrupt"])) {
    case "transient":
      return { exit: Exit.fail(new Trouble({ failure: "transient", message })), failed: "Retry" }
    case "permanent":
      return { exit: Exit.fail(new Trouble({ failure: "permanent", message })), failed: "DeadLetter" }
    case "throttled":
      return {
        exit: Exit.fail(new Trouble({ failure: "throttled", message, retryAfter: Duration.millis(integer(0, 40)) })),
        failed: "Throttled"
      }
    case "die":
      return { exit: Exit.die(new Error(message)), failed: "DeadLetter" }
    default:
      return { exit: Exit.interrupt(), failed: "Release" }
  }
}
