/**
 * Names that enqueueing and running share.
 */

/** The headers of a task's message. */
export const names = { id: "task-id", task: "task-name" } as const

/** The header by which RabbitMQ orders messages. */
export const priorityHeader = "amqp-priority"

/** The longest id of a task, in characters. */
export const longestId = 255
