/**
 * The execution that a workflow's code is part of: its id, the context of the message that started it, durable steps, signals
 * and sleeps.
 */
import { Context, type Duration, Effect, type Schema } from "effect"
import * as Json from "./internal/json.ts"

/** An execution, as its engine provides it to the code of a workflow. */
class Execution extends Context.Service<Execution, {
  readonly id: string
  readonly workflow: string
  /** Correlation, causation, principal and trace context of the message that started the execution. */
  readonly headers: { readonly [name: string]: string }
  /**
   * Runs a step once: a replay of the workflow's code gets the recorded result. Results and errors are JSON. The engine numbers
   * steps of equal names in the order of their calls.
   */
  readonly step: <R>(
    name: string,
    run: (id: string) => Effect.Effect<string, string, R>
  ) => Effect.Effect<string, string, R>
  /** Waits for a signal and returns its payload as JSON. The first signal of a name counts. */
  readonly signal: (name: string) => Effect.Effect<string>
  /** Sleeps; the time passes while no process runs, too. */
  readonly sleep: (name: string, duration: Duration.Input) => Effect.Effect<void>
}>()("@millrace/workflow/Execution/Current") {}
export { Execution as Current }

/**
 * Waits for the signal `name`, and decodes its payload; a payload that is not one of the schema is a defect, which fails the
 * workflow.
 *
 * @category accessors
 */
export const signal = <A>(
  name: string,
  schema: Schema.ConstraintCodec<A, unknown>
): Effect.Effect<A, never, Execution> => {
  const payloads = Json.codecOf(schema)
  return Effect.flatMap(Execution, (execution) =>
    Effect.flatMap(execution.signal(name), (text) =>
      Effect.catch(
        payloads.decode(text),
        (issue) =>
          Effect.die(new TypeError(`Execution: the payload of the signal ${name} is not one of its schema: ${issue}`))
      )))
}

/**
 * Sleeps under a name that is unique in the workflow.
 *
 * @category accessors
 */
export const sleep = (name: string, duration: Duration.Input): Effect.Effect<void, never, Execution> =>
  Effect.flatMap(Execution, (execution) => execution.sleep(name, duration))
