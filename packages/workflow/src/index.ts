/**
 * Messages that start durable work.
 */
export * as Activity from "./Activity.ts"
export * as EffectWorkflows from "./EffectWorkflows.ts"
export * as Execution from "./Execution.ts"
export * as SignalWorkflow from "./SignalWorkflow.ts"
export * as StartWorkflow from "./StartWorkflow.ts"
export * as WorkflowStarter from "./WorkflowStarter.ts"
export * as WorkflowType from "./WorkflowType.ts"
