/**
 * Tasks in the background over any broker of Millrace.
 */
export * as Task from "./Task.ts"
export * as Tasks from "./Tasks.ts"
export * as Worker from "./Worker.ts"
