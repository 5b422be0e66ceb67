/**
 * The errors of enqueueing, of results and of workers.
 */
import { Data } from "effect"

/** The task has failed, with an error that is not of its own type. */
export class TaskFailed extends Data.TaggedError("TaskFailed")<{
  readonly id: string
  readonly task: string
  /** The tag of the last attempt's error. */
  readonly tag: string
  readonly message: string
}> {
  readonly failure = "permanent" as const
}

/** The task was cancelled. */
export class TaskCancelled extends Data.TaggedError("TaskCancelled")<{ readonly id: string; readonly task: string }> {
  readonly failure = "permanent" as const
  override get message(): string {
    return `The task ${this.task} ${this.id} was cancelled.`
  }
}

/** No attempt of the task began in time. */
export class TaskExpired extends Data.TaggedError("TaskExpired")<{ readonly id: string; readonly task: string }> {
  readonly failure = "permanent" as const
  override get message(): string {
    return `The task ${this.task} ${this.id} expired before a worker began it: add workers, or give it more time.`
  }
}

/** The store has no record of the task: it never existed, or its time is over. */
export class TaskMissing extends Data.TaggedError("TaskMissing")<{ readonly id: string; readonly task: string }> {
  readonly failure = "permanent" as const
  override get message(): string {
    return `The store has no task ${this.task} ${this.id}: it was never enqueued there, or its record was removed.`
  }
}

/** The id of a new task belongs to a task with another name or payload. */
export class TaskConflict extends Data.TaggedError("TaskConflict")<{ readonly id: string; readonly task: string }> {
  readonly failure = "validation" as const
  override get message(): string {
    return `The id ${this.id} belongs to a task with another name or payload: enqueue ${this.task} under another id.`
  }
}

/** An option that the broker or the task does not support. */
export class TaskRefused extends Data.TaggedError("TaskRefused")<{ readonly message: string }> {
  readonly failure = "permanent" as const
}

/** A message on the queue that no program has enqueued as a task. */
export class NotATask extends Data.TaggedError("NotATask")<{ readonly channel: string }> {
  readonly failure = "poison" as const
  override get message(): string {
    return `A message on ${this.channel} names no task: only Tasks.enqueue publishes to a queue of tasks.`
  }
}

/** The worker has no implementation of the task. */
export class UnknownTask extends Data.TaggedError("UnknownTask")<{ readonly id: string; readonly task: string }> {
  readonly failure = "permanent" as const
  override get message(): string {
    return `No implementation of the task ${this.task} is in this worker: add it, then start the task ${this.id} again.`
  }
}

/** Another attempt has taken over: this one's lease ended first. */
export class TaskLost extends Data.TaggedError("TaskLost")<{ readonly id: string; readonly task: string }> {
  readonly failure = "conflict" as const
  override get message(): string {
    return `The lease of the task ${this.task} ${this.id} ended while it ran: the worker could not reach the store in time.`
  }
}
