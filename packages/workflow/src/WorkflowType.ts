/**
 * The type of a workflow: its name and the schemas of its payload, result and error. Handlers start a workflow by its type,
 * and know no engine.
 */
import { Schema } from "effect"

/** A workflow as its callers know it. */
export interface WorkflowType<in out P, in out A = void, in out E = never> {
  readonly name: string
  readonly payload: Schema.ConstraintCodec<P, unknown>
  readonly success: Schema.ConstraintCodec<A, unknown>
  readonly error: Schema.ConstraintCodec<E, unknown>
}

/** Options of `make`. */
export interface Options<P, A, E> {
  /** The schema of the payload, which is stored as JSON. */
  readonly payload: Schema.ConstraintCodec<P, unknown>
  /** The schema of the result. Default: no result. */
  readonly success?: Schema.ConstraintCodec<A, unknown> | undefined
  /** The schema of the errors with which the workflow may fail. Default: none. */
  readonly error?: Schema.ConstraintCodec<E, unknown> | undefined
}

/** A letter, then letters, digits and `_ . -`: the name begins the id of each execution, before a slash. */
const allowed = /^[A-Za-z][\w.-]{0,99}$/

/**
 * Makes the type of a workflow.
 *
 * The name is the workflow's name on every engine: 1 to 100 letters, digits and `_ . -`, a letter first.
 *
 * **Example** (a workflow that answers a receipt)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { WorkflowType } from "@millrace/workflow"
 *
 * const Fulfil = WorkflowType.make("FulfilOrder", {
 *   payload: Schema.Struct({ order: Schema.String, amount: Schema.Number }),
 *   success: Schema.Struct({ receipt: Schema.String })
 * })
 * console.log(Fulfil.name) // => FulfilOrder
 * ```
 *
 * @throws RangeError when the name is not valid
 * @category constructors
 */
export const make = <P, A = void, E = never>(name: string, options: Options<P, A, E>): WorkflowType<P, A, E> => {
  if (!allowed.test(name)) {
    throw new RangeError(
      `WorkflowType: name must be 1 to 100 letters, digits and _ . -, a letter first, got ${JSON.stringify(name)}`
    )
  }
  return {
    name,
    payload: options.payload,
    // the defaults of A and E are the types of these schemas
    success: options.success ?? (Schema.Void as unknown as Schema.ConstraintCodec<A, unknown>),
    error: options.error ?? (Schema.Never as unknown as Schema.ConstraintCodec<E, unknown>)
  }
}
