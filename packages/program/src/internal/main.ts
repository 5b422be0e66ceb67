/**
 * A program as the main of a Node process: arguments, signals and exit codes.
 */
import { Failure } from "@millrace/core"
import { Cause, Console, Data, Effect, type Exit, Option, Runtime } from "effect"
import { constants } from "node:os"
import { codeOf, exitCodes } from "./errors.ts"
import { type Plan, start } from "./running.ts"
import { type Choice, namesOf, variable } from "./selection.ts"

/** Options of `run`. */
export interface RunOptions {
  /** The arguments. Default: those of the process. */
  readonly args?: ReadonlyArray<string> | undefined
  /** Lines that `--help` prints below its own, e.g. the program's variables. */
  readonly help?: string | undefined
}

class UsageError extends Data.TaggedError("UsageError")<{ readonly message: string }> {
  override get [Runtime.errorExitCode](): number {
    return exitCodes.usage
  }
}

/** The text of `--help`; a program that cannot be made, since its configuration is wrong, has no list of parts. */
const usage = (plan: Plan | undefined, more: string | undefined): string =>
  [
    ...plan === undefined ? [] : [
      `${plan.name} runs these parts:`,
      "",
      ...Array.from(plan.parts, ([name, { stage }]) => `  ${name.padEnd(24)} ${stage}`),
      ""
    ],
    "  --only NAMES             runs these parts, with commas between the names",
    "  --without NAMES          runs all but these",
    "  --help                   prints this",
    "",
    `The variable ${variable} is --only of the environment.`,
    ...(more === undefined ? [] : ["", more])
  ].join("\n")

const parse = (args: ReadonlyArray<string>): Effect.Effect<Choice & { readonly isHelp: boolean }, UsageError> => {
  const refuse = (problem: string) =>
    Effect.fail(new UsageError({ message: `${problem}: --help says which arguments there are.` }))
  const lists: Record<"--only" | "--without", Array<string> | undefined> = {
    "--only": undefined,
    "--without": undefined
  }
  for (let i = 0; i < args.length; i++) {
    const [flag = "", ...rest] = args[i]!.split("=")
    if (flag === "--help" && rest.length === 0) return Effect.succeed({ isHelp: true })
    if (flag !== "--only" && flag !== "--without") {
      return refuse(`${JSON.stringify(args[i]!.slice(0, 100))} is no argument`)
    }
    const value = rest.length > 0 ? rest.join("=") : args[++i]
    const names = value === undefined || value.startsWith("--") ? [] : namesOf(value)
    if (names.length === 0) return refuse(`${flag} must be followed by the names of parts`)
    lists[flag] = [...lists[flag] ?? [], ...names]
  }
  return Effect.succeed({ isHelp: false, only: lists["--only"], without: lists["--without"] })
}

const say = (error: unknown): Effect.Effect<void> =>
  Console.error(Failure.messageOf(error) || `${Failure.tagOf(error)}: the program failed`)

/** Runs a program, and ends the process with its exit code. */
export const runMain = (
  made: Effect.Effect<Plan, unknown>,
  { args = process.argv.slice(2), help }: RunOptions
): void => {
  let isLate = false
  const main = Effect.gen(function*() {
    const { isHelp, ...choice } = yield* parse(args)
    if (isHelp) return yield* Console.log(usage(Option.getOrUndefined(yield* Effect.option(made)), help))
    const plan = yield* made
    yield* Effect.scoped(Effect.gen(function*() {
      const { ended } = yield* start(plan, choice, () => {
        isLate = true
      })
      yield* ended
    }))
  }).pipe(Effect.tapCause((cause) => Cause.hasInterruptsOnly(cause) ? Effect.void : say(Cause.squash(cause))))

  const codeOfExit = (exit: Exit.Exit<unknown, unknown>): number => {
    if (exit._tag === "Failure" && !Cause.hasInterruptsOnly(exit.cause)) return codeOf(Cause.squash(exit.cause))
    return isLate ? exitCodes.unstopped : exitCodes.success
  }

  const asMain = Runtime.makeRunMain(({ fiber, teardown }) => {
    let isStopping = false
    const onSignal = (signal: "SIGINT" | "SIGTERM") => {
      if (isStopping) process.exit(128 + constants.signals[signal])
      isStopping = true
      fiber.interruptUnsafe(fiber.id)
    }
    process.on("SIGINT", onSignal)
    process.on("SIGTERM", onSignal)
    // parts that did not stop would keep the process alive
    fiber.addObserver((exit) => teardown(exit, (code) => process.exit(code)))
  })
  asMain(main, { disableErrorReporting: true, teardown: (exit, onExit) => onExit(codeOfExit(exit)) })
}
