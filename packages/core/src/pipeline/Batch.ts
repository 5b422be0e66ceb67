/**
 * Messages handled together: turns a function of many messages into a handler of one, so that every middleware, retry and
 * outcome still applies to the single message.
 */
import { Context, type Duration, Effect, Exit, Fiber, Random, Result, Tracer } from "effect"
import * as Detached from "../message/Detached.ts"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as TraceContext from "../message/TraceContext.ts"
import * as Ambient from "../telemetry/Ambient.ts"
import * as Description from "./Description.ts"
import * as Eager from "./Eager.ts"
import type { Handler } from "./Handler.ts"
import * as Spans from "../telemetry/Spans.ts"

/** Size and waiting time of a batch. */
export interface Options {
  /** The most messages in a batch; an integer from 1. The lanes of the subscription must run as many concurrently. */
  readonly size: number
  /** How long the first message waits for more. Default: 10 milliseconds. */
  readonly wait?: Duration.Input | undefined
}

/** The answer of a batch: nothing, or one item for each message, in message order. */
export type Answered = void | undefined | ReadonlyArray<unknown>

type ItemOf<A> = A extends ReadonlyArray<infer Item> ? Item : void

/** The answer of one message of a batch. */
export type AnswerOf<A> = ItemOf<A> extends infer Item
  ? Item extends Result.Result<infer Success, unknown> ? Success : Item
  : never

/** The error of one message of a batch, in addition to errors of the whole batch. */
export type ErrorOf<A> = ItemOf<A> extends infer Item ? Item extends Result.Result<unknown, infer Error> ? Error : never
  : never

/** A message waiting in a batch. */
interface Member<M> extends Ambient.Held<M> {
  readonly resume: (exit: Exit.Exit<unknown, unknown>) => void
}

/** Messages with the same services. */
class Group<M> {
  members: Array<Member<M>> = []
  timer: Fiber.Fiber<void> | undefined
  running: Fiber.Fiber<unknown, unknown> | undefined
  /** Number of members interrupted while the batch ran. */
  gone = 0
  #contexts: Map<unknown, Context.Context<never>> | undefined

  contextOf(message: unknown): Context.Context<never> | undefined {
    this.#contexts ??= new Map(this.members.map(({ context, message }) => [message, context]))
    return this.#contexts.get(message)
  }
}

/** The batch that the current fiber handles. */
const Current = Detached.reference<Pick<Group<unknown>, "contextOf"> | undefined>("@millrace/core/Batch/Current", {
  defaultValue: () => undefined
})

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

/** Runs a batch in a span of its own, linked to each message's span, if its messages carried several spans. */
const linked = <A, E>(members: ReadonlyArray<Member<Envelope>>, self: Effect.Effect<A, E>): Effect.Effect<A, E> => {
  const spans = Ambient.spansOf(members)
  if (spans === undefined) return self
  if (spans.length > 0) {
    return Spans.batch(
      members.map(({ message }) => message),
      spans.map((span) => ({ span, attributes: {} })),
      undefined
    )(self)
  }
  // none of the messages is sampled, so the batch's trace is not recorded either
  return Effect.flatMap(
    Random.Random,
    (random) => Effect.provideService(self, Tracer.ParentSpan, TraceContext.unsampledRoot(random))
  )
}

/**
 * Runs an effect inside a batch with the ids, the span, the log annotations and the baggage of one of its messages, so that
 * messages published by the effect belong to that message's flow. Outside a batch, or with another message, the effect runs
 * unchanged.
 *
 * **Example** (a receipt for each payment)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Batch, Channel, type Message, Publisher } from "@millrace/core"
 *
 * const Receipts = Channel.bytes("receipts")
 *
 * const handler = Batch.handler({ size: 100 }, (messages: ReadonlyArray<Message<Uint8Array>>) =>
 *   Effect.forEach(messages, (message) =>
 *     Publisher.make(Receipts).publish(message.payload).pipe(Batch.within(message)), { discard: true }))
 * ```
 *
 * @category combinators
 */
export const within = (message: Envelope) => <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.updateContext(self, (context: Context.Context<R>) => {
    const own = Context.get(context, Current)?.contextOf(message)
    return own === undefined ? context : Ambient.alone(context, own)
  })

/** After this many batches of one in a row, a log warning tells why. */
const tooLonely = 100

const keptApart = (name: string, { differed }: Ambient.Comparison): string =>
  `Batch: ${name} handles messages one by one, since a middleware outside gives each message a ${differed} of its own. Let it read what it needs from the messages, or use a handler of single messages.`

/**
 * Makes a handler of single messages from a function that handles many.
 *
 * A batch runs when `size` messages wait or the first has waited for `wait`. The function answers nothing, which completes all
 * messages of the batch, or one item for each message, in message order: an `Outcome`, a `Result` whose failure is that
 * message's error, or the message's answer. If the function fails or dies, each message does. Retried messages join later
 * batches.
 *
 * Types: errors of `Result` items join `E`, beside the errors of the whole batch; all other items are answers.
 *
 * Interrupting a message (a `Timeout` outside, a lost lease) removes it from a batch that has not started, and has no effect on
 * a running batch; a batch is interrupted once all its messages are. A drain waits for a batch as for any handler.
 *
 * Services: all messages of a batch share the same services (each one the same object), and the batch runs with these. So with
 * `Auth` outside, each batch holds the messages of one principal. A middleware outside that makes a new service for each
 * message, such as a transaction, causes batches of one, and a warning names that service. A batch has a scope of its own,
 * which is closed before its messages end.
 *
 * The batch runs with the ids, spans, log annotations and baggage shared by all its messages. Messages of several flows get one
 * new correlation id, and log lines list the messages in `causationIds`; their spans are linked to one span of the batch.
 * `Batch.within` runs an effect with the ids and the span of one message. A message's answer is published with its own ids.
 *
 * Messages must run concurrently: `Subscription.make` refuses `Lanes.partition`, which runs one message at a time, and lanes
 * whose limit is below `size`. With `Lanes.key`, no two messages of a key are in one batch.
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
  const check = OptionCheck.make("Batch")
  const size = check.count("size", options.size)
  const wait = check.millis("wait", options.wait ?? 10, { least: 0 })
  const name = run.name || "batch"
  /** Groups still accepting messages: one for each set of services. */
  let open: ReadonlyArray<Group<M>> = []
  const services = new Ambient.Comparison()
  /** Number of batches of one in a row while other messages waited. */
  let lonely = 0

  const close = (group: Group<M>): void => {
    open = open.filter((each) => each !== group)
  }

  const start = (group: Group<M>): void => {
    if (group.running !== undefined) return
    close(group)
    const { members } = group
    lonely = size > 1 && members.length === 1 && open.length > 0 ? lonely + 1 : 0
    if (lonely === tooLonely) Effect.runForkWith(members[0]!.context)(Effect.logWarning(keptApart(name, services)))
    const called = Effect.suspend(() => run(members.map(({ message }) => message)))
    // the batch's scope is closed before any of its messages ends
    const whole = members.length === 1 ? called : Effect.scoped(called)
    // the services of R are part of each message's context
    const effect = whole as Effect.Effect<A, E>
    group.running = members.length === 1
      ? Effect.runForkWith(members[0]!.context)(effect)
      : Effect.runForkWith(Context.add(Ambient.together(members), Current, group))(linked(members, effect))
    group.running.addObserver((exit) => tell(members, exit))
  }

  const leave = (group: Group<M>, member: Member<M>): Effect.Effect<void> => {
    if (group.running !== undefined) {
      group.gone++
      return group.gone < group.members.length ? Exit.void : Fiber.interrupt(group.running)
    }
    group.members = group.members.filter((each) => each !== member)
    if (group.members.length > 0) return Exit.void
    close(group)
    return group.timer === undefined ? Exit.void : Fiber.interrupt(group.timer)
  }

  // a callback is one step of the fiber, so each message that joins can also leave
  const one = (message: M): Effect.Effect<unknown, unknown> =>
    Effect.callback<unknown, unknown>((resume) => {
      const { context } = Fiber.getCurrent()!
      let group = open.find(({ members }) => services.isSame(members[0]!.context, context))
      if (group === undefined) open = [...open, group = new Group()]
      const joined = group
      const member: Member<M> = { message, context, resume }
      joined.members.push(member)
      if (joined.members.length >= size) {
        joined.timer?.interruptUnsafe()
        start(joined)
      } else if (joined.timer === undefined) {
        joined.timer = Effect.runForkWith(context)(
          Effect.andThen(Effect.sleep(wait), Effect.sync(() => start(joined)))
        )
      }
      return Effect.suspend(() => leave(joined, member))
    })

  return Description.describe(
    // the type of the items is the type of the members' results
    Eager.guard(one as Handler<M, AnswerOf<A>, E | ErrorOf<A>, R>),
    [{ name, stage: "handle", shows: { batch: size, wait: `${wait} ms` }, batch: { size, wait } }]
  )
}
