/**
 * The end of an execution with the types of its workflow.
 */
import { Effect, Exit } from "effect"
import { type Closed, WorkflowRefused } from "../WorkflowStarter.ts"
import type { WorkflowType } from "../WorkflowType.ts"
import * as Json from "./json.ts"

/**
 * The end of an execution.
 *
 * - `Completed`: with the result
 * - `Failed`: with the workflow's own error, or with undefined and a message for any other failure
 * - `Cancelled`: cancelled or terminated
 */
export type ClosedOf<A, E> =
  | { readonly _tag: "Completed"; readonly value: A }
  | { readonly _tag: "Failed"; readonly error: E | undefined; readonly message: string }
  | { readonly _tag: "Cancelled" }

/** Makes the function that decodes the end of an execution of a workflow. */
export const closedOf = <P, A, E>(workflow: WorkflowType<P, A, E>) => {
  const values = Json.codecOf(workflow.success)
  const errors = Json.codecOf(workflow.error)
  const unreadable = (issue: string) =>
    new WorkflowRefused({
      reason: "payload",
      message: `The result of the workflow ${workflow.name} is not one of its schema: ${issue}`
    })
  return (closed: Closed): Effect.Effect<ClosedOf<A, E>, WorkflowRefused> => {
    switch (closed._tag) {
      case "Cancelled":
        return Exit.succeed(closed)
      case "Completed":
        return Effect.mapEager(
          Effect.mapErrorEager(values.decode(closed.value), unreadable),
          (value) => ({ _tag: "Completed", value })
        )
      case "Failed": {
        const { message } = closed
        if (closed.error === undefined) return Exit.succeed({ _tag: "Failed", error: undefined, message })
        return Effect.catchEager(
          Effect.mapEager(errors.decode(closed.error), (error): ClosedOf<A, E> => ({ _tag: "Failed", error, message })),
          () => Exit.succeed<ClosedOf<A, E>>({ _tag: "Failed", error: undefined, message })
        )
      }
    }
  }
}
