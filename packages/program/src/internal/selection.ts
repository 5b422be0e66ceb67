/**
 * The choice of parts by name: by options, by arguments, and by the environment.
 */
import { Config, Effect, Option } from "effect"
import { SelectionError } from "./errors.ts"

/** The names of the parts to run, and of those not to run. */
export interface Choice {
  readonly only?: ReadonlyArray<string> | undefined
  readonly without?: ReadonlyArray<string> | undefined
}

/** The variable that names the parts to run. */
export const variable = "MILLRACE_PARTS"

/** Returns the names of a list with commas. */
export const namesOf = (text: string): ReadonlyArray<string> =>
  text.split(",").map((name) => name.trim()).filter((name) => name !== "")

const fromEnvironment = Effect.map(
  Config.option(Config.String(variable)),
  Option.match({ onNone: () => undefined, onSome: (text) => text.trim() === "" ? undefined : namesOf(text) })
)

const refuse = (names: ReadonlyArray<string>, all: ReadonlyArray<string>, source: SelectionError["source"]) => {
  const unknown = names.filter((name) => !all.includes(name))
  if (unknown.length === 0) return Effect.void
  const shown = unknown.slice(0, 10).map((name) => JSON.stringify(name.slice(0, 100))).join(", ")
  const from = source === "options" ? "" : `${variable}: `
  return Effect.fail(
    new SelectionError({ source, message: `${from}no part is named ${shown}: the parts are ${all.join(", ")}` })
  )
}

/** Returns the chosen names, in the order of the program. Names given by code or arguments take the place of the variable's. */
export const select = (
  all: ReadonlyArray<string>,
  { only, without = [] }: Choice
): Effect.Effect<ReadonlyArray<string>, SelectionError | Config.ConfigError> =>
  Effect.gen(function*() {
    const fromVariable = only === undefined ? yield* fromEnvironment : undefined
    const wanted = only ?? fromVariable ?? all
    yield* refuse([...only ?? [], ...without], all, "options")
    yield* refuse(fromVariable ?? [], all, variable)
    const chosen = all.filter((name) => wanted.includes(name) && !without.includes(name))
    if (chosen.length > 0) return chosen
    return yield* new SelectionError({
      source: fromVariable === undefined ? "options" : variable,
      message: `no part is left to run: the parts are ${all.join(", ")}`
    })
  })
