/**
 * A task is a value that types both ends: the program that enqueues it and the worker that runs it.
 */
import { Channel, OptionCheck } from "@millrace/core"
import { Duration, Schema } from "effect"
import * as Codec from "./internal/codec.ts"

export { TaskValueError } from "./internal/codec.ts"

/** Options of a task. */
export interface Options<P, A, E, G> {
  /** The queue: the name of the channel that carries the task's messages. Default: `tasks`. */
  readonly queue?: string | undefined
  /** The schema of the payload, which is sent as JSON. */
  readonly payload: Schema.ConstraintCodec<P, unknown>
  /** The schema of the result. Default: nothing. */
  readonly success?: Schema.ConstraintCodec<A, unknown> | undefined
  /**
   * The schema of the task's own errors. An error of it that carries no failure class ends the task as failed, and is the error
   * of its result. Default: no such errors.
   */
  readonly error?: Schema.ConstraintCodec<E, unknown> | undefined
  /** The schema of the progress that a worker reports. Default: no progress. */
  readonly progress?: Schema.ConstraintCodec<G, unknown> | undefined
  /** The key of a payload, for brokers and lanes that keep the order of a key. Default: none. */
  readonly key?: ((payload: P) => string | undefined) | undefined
  /** How long the record with the result is kept after the end of the task; from 1 ms. Default: 24 hours. */
  readonly keep?: Duration.Input | undefined
}

/** A task with payloads `P`, results `A`, errors `E` and progress `G`. */
export interface Task<in out P, in out A, in out E, in out G> {
  readonly name: string
  readonly queue: string
  /** The channel of the queue, with this task's payload. */
  readonly channel: Channel.Channel<P>
  readonly payload: Codec.Codec<P>
  readonly success: Codec.Codec<A>
  readonly error: Codec.Codec<E> & { readonly is: (error: unknown) => error is E }
  readonly progress: Codec.Codec<G>
  /** Milliseconds for which the record is kept after the end. */
  readonly keep: number
}

/** The defaults of `make`. */
export const defaults: { readonly queue: string; readonly keep: Duration.Duration } = {
  queue: "tasks",
  keep: Duration.hours(24)
}

const check = OptionCheck.make("Task.make")

const longestName = 255

/**
 * Makes a task.
 *
 * **Example** (a task with a result, an error of its own, and progress)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Task } from "@millrace/tasks"
 *
 * class NoImage extends Schema.TaggedError<NoImage>()("NoImage", { url: Schema.String }) {}
 *
 * const Resize = Task.make("resize", {
 *   queue: "images",
 *   payload: Schema.Struct({ url: Schema.String, width: Schema.Int }),
 *   success: Schema.Struct({ bytes: Schema.Int }),
 *   error: NoImage,
 *   progress: Schema.Finite
 * })
 * console.log(Resize.name, Resize.queue) // => resize images
 * ```
 *
 * @throws RangeError when the name or the queue is empty or longer than 255 characters, or `keep` is out of range
 * @category constructors
 */
export const make = <P, A = void, E = never, G = never>(
  name: string,
  options: Options<P, A, E, G>
): Task<P, A, E, G> => {
  const { error = Schema.Never, key, payload, progress = Schema.Never, success = Schema.Void } = options
  const queue = options.queue ?? defaults.queue
  for (const [option, text] of Object.entries({ name, queue })) {
    if (text === "" || text.length > longestName) {
      throw new RangeError(`Task.make: ${option} must have 1 to ${longestName} characters, got ${text.length}`)
    }
  }
  // a default schema stands for the default of its type parameter
  const [ofSuccess, ofError, ofProgress] = [
    success as Schema.ConstraintCodec<A, unknown>,
    error as Schema.ConstraintCodec<E, unknown>,
    progress as Schema.ConstraintCodec<G, unknown>
  ]
  return {
    name,
    queue,
    channel: Channel.make(queue, { payload, key }) as Channel.Channel<P>,
    payload: Codec.make(name, "payload", payload),
    success: Codec.make(name, "result", ofSuccess),
    error: { ...Codec.make(name, "error", ofError), is: Schema.is(ofError) },
    progress: Codec.make(name, "progress", ofProgress),
    keep: check.millis("keep", options.keep ?? defaults.keep)
  }
}
