/**
 * Runs in the sandbox of workflows: passes the context of the start on to each activity.
 */
import type {
  ActivityInput,
  Next,
  WorkflowExecuteInput,
  WorkflowInboundCallsInterceptor,
  WorkflowInterceptors,
  WorkflowOutboundCallsInterceptor
} from "@temporalio/workflow"

// the bundle of workflows holds this file alone
const name = "millrace"

/** Made for each execution, by the worker. */
export const interceptors = (): WorkflowInterceptors => {
  let context: WorkflowExecuteInput["headers"][string] | undefined
  const inbound: WorkflowInboundCallsInterceptor = {
    execute: (input: WorkflowExecuteInput, next: Next<WorkflowInboundCallsInterceptor, "execute">) => {
      context = input.headers[name]
      return next(input)
    }
  }
  const outbound: WorkflowOutboundCallsInterceptor = {
    scheduleActivity: (input: ActivityInput, next: Next<WorkflowOutboundCallsInterceptor, "scheduleActivity">) =>
      next(context === undefined ? input : { ...input, headers: { ...input.headers, [name]: context } })
  }
  return { inbound: [inbound], outbound: [outbound] }
}
