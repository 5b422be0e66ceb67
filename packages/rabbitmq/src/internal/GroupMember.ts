/**
 * Consumes a channel as a member of a group: creates the group's queue if needed, waits for its turn if order matters, and
 * reads.
 *
 * If order matters, the members of a group stand in line, and only the first consumes. A member closes its channel before it
 * leaves the line, so its unsettled messages are back in their old place before the next member begins.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, type Scope } from "effect"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import { Consumer } from "./Consumer.ts"
import * as Errors from "./Errors.ts"
import * as Groups from "./Groups.ts"
import * as Lock from "./Lock.ts"
import * as Requests from "./Requests.ts"
import * as Topology from "./Topology.ts"

type Failed = BrokerError.BrokerError

// milliseconds after which a member reports that it stands by; the first of a line is ready sooner
const standBy = 100
// how often the first of a line checks whether the previous member has left the queue, in milliseconds
const looking = 20

/**
 * Waits until the queue has no consumer. When a member dies, RabbitMQ ends its place in the line and its consumer one by one,
 * in any order; in one step with the consumer's end, its unsettled messages return to their place.
 */
const left = (connection: Connection, where: { readonly channel: string; readonly queue: string }) => {
  const look: Effect.Effect<void, Failed> = Effect.flatMap(
    Requests.attempt(
      connection.resolved,
      "consume",
      () => Channels.using(connection, Channels.plain, (channel) => channel.checkQueue(where.queue)),
      where
    ),
    ({ consumerCount }) => consumerCount === 0 ? Effect.void : Effect.andThen(Effect.sleep(looking), look)
  )
  return Effect.timeoutOrElse(look, {
    duration: connection.resolved.requestTimeout,
    orElse: () =>
      Effect.fail(Errors.make(
        "consume",
        "Conflict",
        `The queue ${where.queue} has another consumer, so this subscription cannot keep its order: let all members of the group keep order, or none.`
      ))
  })
}

/** Consumes until interrupted; fails when the channel is lost. The consumer ends with the scope. */
export const consume = (
  connection: Connection,
  publishing: Connection,
  consumers: Map<string, Set<Consumer>>,
  temporary: Set<string>,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const source = Topology.sourceOf(connection.resolved, options, temporary)
    if ("reason" in source) return yield* Effect.fail(source)
    if (source.isTemporary) {
      // after a failure the restarted subscription uses the queue again
      yield* Effect.addFinalizer((exit) =>
        exit._tag === "Failure"
          ? Effect.void
          : Effect.andThen(Groups.end(connection, source), Effect.sync(() => void temporary.delete(options.channel)))
      )
    }
    yield* Groups.begin(connection, source, options)
    const where = { channel: options.channel, queue: source.queue }
    const context = yield* Effect.context<never>()
    // a temporary group has no other member
    const line = options.ordered && !source.isTemporary
      ? yield* Lock.stand(
        connection,
        Topology.lockOf(source.queue),
        Lock.lasting(connection.resolved.queueType)
      )
      : undefined
    const consumer = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const consumer = new Consumer(connection, publishing, source, options, sink, context)
        const others = consumers.get(source.queue) ?? new Set()
        consumers.set(source.queue, others.add(consumer))
        return consumer
      }),
      (consumer) =>
        Effect.andThen(
          Effect.ignore(Effect.timeoutOption(Effect.promise(consumer.close), "5 seconds")),
          Effect.sync(() => {
            const others = consumers.get(source.queue)
            others?.delete(consumer)
            if (others?.size === 0) consumers.delete(source.queue)
          })
        )
    )
    yield* Requests.ask(connection.resolved, "consume", consumer.connect, where)
    const begin = Requests.ask(connection.resolved, "consume", consumer.start, where)
    if (line === undefined) {
      yield* begin
      sink.ready()
      return yield* consumer.read
    }
    const lost = Effect.flatMap(Effect.promise(() => line.lost), (error) => Effect.fail(error))
    const isReady = Effect.sync(() => sink.ready())
    const first = Effect.promise(() => line.held).pipe(
      Effect.andThen(left(connection, where)),
      Effect.andThen(begin),
      Effect.andThen(isReady)
    )
    // members behind the first are ready, too: they stand by
    const second = Effect.andThen(Effect.sleep(standBy), isReady)
    const stay = (effect: Effect.Effect<void, Failed>) => Effect.andThen(effect, Effect.never)
    return yield* Effect.raceFirst(
      Effect.raceFirst(stay(first), stay(second)),
      Effect.raceFirst(lost, consumer.read)
    )
  })
