/**
 * Messages handled together: a function of many becomes a handler of one, so that every middleware, retry and outcome stays
 * that of the single message.
 */
import { type Context, Duration, Effect, Exit, Fiber, Result } from "effect"
import type { Envelope } from "../model/Message.ts"
import * as Description from "./Description.ts"
import * as Eager from "./Eager.ts"
import type { Handler } from "./Handler.ts"

/** How many messages are handled together. */
export interface Options {
  /** The most; an integer from 1. The lanes of the subscription must run as many side by side. */
  readonly size: number
  /** How long the first waits for others. Default: 10 milliseconds. */
  readonly wait?: Duration.Input | undefined
}

/** What a batch answers: nothing, or one item for each message, in their order. */
export type Answered = void | undefined | ReadonlyArray<unknown>

type ItemOf<A> = A extends ReadonlyArray<infer Item> ? Item : void

/** What one message of a batch answers. */
export type AnswerOf<A> = ItemOf<A> extends infer Item
  ? Item extends Result.Result<infer Success, unknown> ? Success : Item
  : never

/** What one message of a batch fails with, beside what the whole fails with. */
export type ErrorOf<A> = ItemOf<A> extends infer Item ? Item extends Result.Result<unknown, infer Error> ? Error : never
  : never

/** A message that waits in a batch. */
interface Member<M> {
  readonly message: M
  readonly resume: (exit: Exit.Exit<unknown, unknown>) => void
}

class Group<M> {
  members: Array<Member<M>> = []
  timer: Fiber.Fiber<void> | undefined
  running: Fiber.Fiber<unknown, unknown> | undefined
  /** Members that were interrupted while it ran. */
  gone = 0
}

const ended = (item: unknown): Exit.Exit<unknown, unknown> =>
  Result.isResult(item)
    ? Result.isSuccess(item) ? Exit.succeed(item.success) : Exit.fail(item.failure)
    : Exit.succeed(item)

const tell = <M>(members: ReadonlyArray<Member<M>>, exit: Exit.Exit<unknown, unknown>): void => {
  if (exit._tag === "Failure" || !Array.isArray(exit.value)) {
    const all = exit._tag === "Failure" ? exit : Exit.void
    for (const { resume } of members) resume(all)
    return
  }
  const items: ReadonlyArray<unknown> = exit.value
  const wrong = items.length === members.length ? undefined : Exit.die(
    new RangeError(`Batch: one item is needed for each message, got ${items.length} for ${members.length}`)
  )
  members.forEach(({ resume }, i) => resume(wrong ?? ended(items[i])))
}

/**
 * A handler of single messages, made of a function that handles many.
 *
 * A batch runs when `size` messages wait or the first has waited for `wait`. It answers nothing, and then each of its messages
 * is done; or one item for each, in their order: an `Outcome`, a `Result` whose failure is that message's error, or the
 * message's answer. When it fails or dies, each of its messages does. Retried messages come again in later batches.
 *
 * Types: items that are `Result`s put their errors into `E`, beside those of the whole; what else they are is the answer.
 *
 * Interrupting a message (a `Timeout` outside, a lost lease) takes it out of a batch that has not begun, and leaves one that
 * has; a batch that nobody waits for any more is interrupted. A drain waits for it as for any handler. Services are those of
 * the first message: what a middleware gives to each message alone, like its principal, is read before the batch.
 *
 * Messages must run side by side: `Subscription.make` refuses `Lanes.partition`, which runs one at a time, and lanes whose
 * limit is below `size`. With `Lanes.key`, no two messages of a key are in one batch.
 *
 * **Example** (one statement for many orders; those without a customer are given up)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Batch, Channel, Decode, Lanes, type Message, Outcome, Subscription } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String, customer: Schema.String })
 * const Orders = Channel.make("orders", { payload: Order })
 *
 * const insert = (ids: ReadonlyArray<string>) => Effect.log("insert", ids.length)
 *
 * const handler = pipe(
 *   Batch.handler({ size: 100, wait: "20 millis" }, (messages: ReadonlyArray<Message<typeof Order.Type>>) =>
 *     Effect.as(
 *       insert(messages.map(({ payload }) => payload.id)),
 *       messages.map(({ payload }) => payload.customer === "" ? Outcome.DeadLetter("no customer") : Outcome.Ack)
 *     )),
 *   Decode.middleware(Orders)
 * )
 * const orders = Subscription.make(Orders, { group: "store", name: "insertOrders", lanes: Lanes.unordered(200) }, handler)
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const handler = <M extends Envelope, A extends Answered, E = never, R = never>(
  options: Options,
  run: (messages: ReadonlyArray<M>) => Effect.Effect<A, E, R>
): Handler<M, AnswerOf<A>, E | ErrorOf<A>, R> => {
  const { size } = options
  if (!Number.isInteger(size) || size < 1) {
    throw new RangeError(`Batch: size must be an integer from 1, got ${size}`)
  }
  const wait = Duration.toMillis(Duration.fromInputUnsafe(options.wait ?? 10))
  if (!(wait >= 0 && wait < Number.POSITIVE_INFINITY)) {
    throw new RangeError(`Batch: wait must be a finite duration from 0, got ${String(options.wait)}`)
  }
  let open: Group<M> | undefined

  const start = (group: Group<M>, context: Context.Context<never>): void => {
    if (group.running !== undefined) return
    if (open === group) open = undefined
    const { members } = group
    const whole = Effect.suspend(() => run(members.map(({ message }) => message)))
    // the services of R are those of the message that began it
    group.running = Effect.runForkWith(context)(whole as Effect.Effect<A, E>)
    group.running.addObserver((exit) => tell(members, exit))
  }

  const leave = (group: Group<M>, member: Member<M>): Effect.Effect<void> => {
    if (group.running !== undefined) {
      group.gone++
      return group.gone < group.members.length ? Exit.void : Fiber.interrupt(group.running)
    }
    group.members = group.members.filter((each) => each !== member)
    if (group.members.length > 0) return Exit.void
    if (open === group) open = undefined
    return group.timer === undefined ? Exit.void : Fiber.interrupt(group.timer)
  }

  // one step of the fiber: a message that joins can also leave
  const one = (message: M): Effect.Effect<unknown, unknown> =>
    Effect.callback<unknown, unknown>((resume) => {
      const { context } = Fiber.getCurrent()!
      const group = open ??= new Group()
      const member: Member<M> = { message, resume }
      group.members.push(member)
      if (group.members.length >= size) {
        group.timer?.interruptUnsafe()
        start(group, context)
      } else if (group.timer === undefined) {
        group.timer = Effect.runForkWith(context)(
          Effect.andThen(Effect.sleep(wait), Effect.sync(() => start(group, context)))
        )
      }
      return Effect.suspend(() => leave(group, member))
    })

  return Description.describe(
    // what a member resumes with is what the items are
    Eager.guard(one as Handler<M, AnswerOf<A>, E | ErrorOf<A>, R>),
    [{ name: run.name || "batch", stage: "handle", shows: { batch: size, wait: `${wait} ms` }, batch: { size, wait } }]
  )
}
