/**
 * Reads a channel without consuming it, through a consumer of its own that acknowledges nothing and is deleted afterwards.
 */
import { type BrokerError, type Delivery, delivery, type Origin } from "@millrace/core"
import { AckPolicy, DeliverPolicy } from "@nats-io/jetstream"
import { createInbox, type Msg, nuid } from "@nats-io/transport-node"
import { Deferred, Effect, Exit, Option, Stream } from "effect"
import { Numbers, reader, Token } from "./Codec.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Topology from "./Topology.ts"
import { type Client, type Connection, unsubscribe } from "../Connection.ts"
import * as Errors from "../Errors.ts"
import * as Names from "../Names.ts"

type Failed = BrokerError.BrokerError

const page = 256
// nanoseconds between two pages after which the server deletes the consumer of a slow reader
const patience = 5 * 60_000 * 1_000_000

const encoder = new TextEncoder()

/** Whether the message is the last one that its consumer has now. */
const isLast = (reply: string): boolean => {
  const words = reply.split(".")
  return words[words.length === 9 ? 8 : 10] === "0"
}

/** Pulls once, and returns the received messages: fewer than a page if there are no more. */
const pull = (
  connection: Connection,
  subject: string,
  prefix: string,
  where: { readonly channel: string }
): Effect.Effect<ReadonlyArray<Msg>, Failed> =>
  Effect.suspend(() => {
    const inbox = createInbox(prefix)
    const found: Array<Msg> = []
    const answer = Deferred.makeUnsafe<ReadonlyArray<Msg>, Failed>()
    const end = (exit: Exit.Exit<ReadonlyArray<Msg>, Failed>) => void Deferred.doneUnsafe(answer, exit)
    const take = (message: Msg) => {
      const reply = message.reply ?? ""
      if (reply !== "") {
        found.push(message)
        if (found.length === page || isLast(reply)) end(Exit.succeed(found))
        return
      }
      // a status of the server itself: application headers may be unreadable for the client
      const code = message.headers?.code ?? 0
      if (code === 409 || code === 503) {
        end(Exit.fail(Errors.make("browse", "Lost", `The stream of ${where.channel} was lost while it was read.`)))
      } else if (code !== 100) end(Exit.succeed(found))
    }
    return Effect.acquireUseRelease(
      connection.attempt("browse", async (nc) => ({
        off: connection.onEnd((error) => end(Exit.fail(error))),
        subscription: nc.subscribe(inbox, {
          callback: (error, message) =>
            error === null ? take(message) : end(Exit.fail(connection.failure(error, "browse", where)))
        })
      }), where),
      () => {
        const body = encoder.encode(JSON.stringify({ batch: page, no_wait: true }))
        const failed = connection.write("browse", subject, body, { reply: inbox })
        return failed === undefined ? Deferred.await(answer) : Effect.fail(failed)
      },
      ({ off, subscription }) => {
        off()
        return unsubscribe(connection, subscription)
      }
    )
  })

/** The messages in the channel when the stream starts, in order. Fails with `NotFound` if no stream holds the channel. */
export const browse = (client: Client, settings: ResolvedOptions, channel: string): Stream.Stream<Delivery, Failed> =>
  Stream.unwrap(Effect.gen(function*() {
    const refused = Names.refuse(channel)
    if (refused !== undefined) return yield* Effect.fail(Errors.invalid("browse", refused))
    const connection = yield* client.connection("browse")
    const [source] = yield* Topology.sourcesOf(client, settings, connection, "browse", channel)
    if (source === undefined) {
      return yield* Effect.fail(
        Errors.make("browse", "NotFound", `No stream of JetStream holds ${channel}: declare it.`)
      )
    }
    const { stream } = source
    const end = yield* Topology.ask(
      client,
      settings,
      connection,
      "browse",
      async (manager) => (await manager.streams.info(stream)).state.last_seq,
      { channel }
    )
    const name = `browse-${nuid.next()}`
    yield* Effect.acquireRelease(
      Topology.ask(client, settings, connection, "browse", (manager) =>
        manager.consumers.add(stream, {
          name,
          ack_policy: AckPolicy.None,
          deliver_policy: DeliverPolicy.All,
          inactive_threshold: patience,
          mem_storage: true,
          ...(source.filter === undefined ? {} : { filter_subject: source.filter })
        }), { channel }),
      () =>
        Effect.ignore(
          Topology.ask(client, settings, connection, "browse", (manager) => manager.consumers.delete(stream, name))
        )
    )
    const origin: Origin = {
      system: "nats",
      channel,
      group: "",
      partition: 0,
      handler: "",
      holdLimit: Number.POSITIVE_INFINITY,
      lasting: true
    }
    const numbers = new Numbers()
    const deliveryOf = (message: Msg): Delivery => {
      numbers.read(message.reply ?? "")
      const token = new Token(message, message.reply ?? "", numbers)
      return delivery(origin, reader, token, numbers.sequence, message.data, 1)
    }
    const prefix = settings.domain === undefined ? "$JS.API" : `$JS.${settings.domain}.API`
    const next = pull(connection, `${prefix}.CONSUMER.MSG.NEXT.${stream}.${name}`, client.options.inboxPrefix, {
      channel
    })
    return Stream.paginate(0, () =>
      Effect.map(next.pipe(client.inTime("browse")), (messages) => {
        const found = messages.map(deliveryOf)
        const isOver = found.length < page || found.at(-1)!.position >= end
        return [
          found.filter(({ position }) => position <= end),
          isOver ? Option.none<number>() : Option.some(0)
        ] as const
      }))
  }))
