/**
 * Consuming: making sure that the group's queue is there, standing in line where order matters, and reading.
 *
 * Where order matters the members of a group stand in line, and only the first consumes. What it had not settled is back in its
 * old place before the next begins, for its channel is closed before it leaves the line.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, type Scope } from "effect"
import * as RabbitMqClient from "./RabbitMqClient.ts"
import * as RabbitMqError from "./RabbitMqError.ts"
import * as RabbitMqGroups from "./RabbitMqGroups.ts"
import * as RabbitMqLock from "./RabbitMqLock.ts"
import { Member } from "./RabbitMqMember.ts"
import * as RabbitMqTopology from "./RabbitMqTopology.ts"

type Failed = BrokerError.BrokerError

// milliseconds; the first of a line knows it sooner
const standBy = 100
// how often the first of a line looks whether the one before has left the queue
const looking = 20

/**
 * Waits until nobody consumes the queue. When a member dies, RabbitMQ ends its place in the line and its consumer one by one, in
 * any order; with the consumer goes, in one step, what it had not settled back to its place.
 */
const left = (link: RabbitMqClient.Link, where: { readonly channel: string; readonly queue: string }) => {
  const look: Effect.Effect<void, Failed> = Effect.flatMap(
    RabbitMqClient.attempt(
      link.connection,
      "consume",
      () => RabbitMqClient.using(link, RabbitMqClient.plain, (channel) => channel.checkQueue(where.queue)),
      where
    ),
    ({ consumerCount }) => consumerCount === 0 ? Effect.void : Effect.andThen(Effect.sleep(looking), look)
  )
  return Effect.timeoutOrElse(look, {
    duration: link.connection.requestTimeout,
    orElse: () =>
      Effect.fail(RabbitMqError.make(
        "consume",
        "Conflict",
        `The queue ${where.queue} has another consumer, so this subscription cannot keep its order: let all members of the group keep order, or none.`
      ))
  })
}

/** Runs until interrupted; fails when the channel is gone. The queue is left with the scope. */
export const consume = (
  link: RabbitMqClient.Link,
  publishing: RabbitMqClient.Link,
  members: Map<string, Set<Member>>,
  temporary: Set<string>,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const source = RabbitMqTopology.sourceOf(link.connection, options, temporary)
    if ("reason" in source) return yield* Effect.fail(source)
    if (source.isTemporary) {
      // after a failure the same subscription goes on with it
      yield* Effect.addFinalizer((exit) =>
        exit._tag === "Failure"
          ? Effect.void
          : Effect.andThen(RabbitMqGroups.end(link, source), Effect.sync(() => void temporary.delete(options.channel)))
      )
    }
    yield* RabbitMqGroups.begin(link, source, options)
    const where = { channel: options.channel, queue: source.queue }
    const context = yield* Effect.context<never>()
    // a temporary group has no other member
    const line = options.ordered && !source.isTemporary
      ? yield* RabbitMqLock.stand(
        link,
        RabbitMqTopology.lockOf(source.queue),
        RabbitMqLock.lasting(link.connection.queueType)
      )
      : undefined
    const member = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const member = new Member(link, publishing, source, options, sink, context)
        const others = members.get(source.queue) ?? new Set()
        members.set(source.queue, others.add(member))
        return member
      }),
      (member) =>
        Effect.andThen(
          Effect.ignore(Effect.timeoutOption(Effect.promise(member.close), "5 seconds")),
          Effect.sync(() => {
            const others = members.get(source.queue)
            others?.delete(member)
            if (others?.size === 0) members.delete(source.queue)
          })
        )
    )
    yield* RabbitMqClient.ask(link.connection, "consume", member.connect, where)
    const begin = RabbitMqClient.ask(link.connection, "consume", member.start, where)
    if (line === undefined) {
      yield* begin
      sink.ready()
      return yield* member.read
    }
    const lost = Effect.flatMap(Effect.promise(() => line.lost), (error) => Effect.fail(error))
    const isReady = Effect.sync(() => sink.ready())
    const first = Effect.promise(() => line.held).pipe(
      Effect.andThen(left(link, where)),
      Effect.andThen(begin),
      Effect.andThen(isReady)
    )
    // who is not the first of the line is ready, too: it stands by
    const second = Effect.andThen(Effect.sleep(standBy), isReady)
    const stay = (effect: Effect.Effect<void, Failed>) => Effect.andThen(effect, Effect.never)
    return yield* Effect.raceFirst(
      Effect.raceFirst(stay(first), stay(second)),
      Effect.raceFirst(lost, member.read)
    )
  })
