/** Takes over from a reader that is gone: its unsettled messages are redelivered at once, and in order. */
import type { BrokerError, Delivery } from "@millrace/core"
import { createInbox, type Msg } from "@nats-io/transport-node"
import { Effect, Latch } from "effect"
import type { Pulls, Reading } from "./Pulls.ts"
import type { Backlog } from "../Backlog.ts"
import { unsubscribe } from "../Connection.ts"

type Failed = BrokerError.BrokerError

const encoder = new TextEncoder()
const again = encoder.encode("-NAK")

const mostReleased = 50_000

/** The delivered, unacknowledged messages of a consumer. */
export interface Pending {
  readonly count: number
  /** All messages up to this sequence of the stream are settled. */
  readonly from: number
  /** The last sequence of the stream that was delivered. */
  readonly last: number
  /** The number of the last delivery. */
  readonly sequence: number
}

/** A reader that takes over. */
export interface Successor {
  readonly of: Reading
  readonly pulls: Pulls
  readonly backlog: Backlog
  readonly take: (message: Msg) => void
}

const inOrder = (backlog: Backlog): void => {
  const found = new Map<number, Delivery>()
  for (const each of backlog.all) found.set(each.position, each)
  backlog.reset(Array.from(found.values()).sort((a, b) => a.position - b.position))
}

const release = ({ backlog, of: { durable, source }, pulls }: Successor, { from, last, sequence }: Pending): void => {
  // with possibly millions of sequences and few unsettled messages, wait for `ack_wait` instead
  if (last - from > mostReleased) return
  const here = new Set(backlog.all.map(({ position }) => position))
  for (let each = from + 1; each <= last; each++) {
    if (here.has(each)) continue
    pulls.write(`$JS.ACK.${source.stream}.${durable}.1.${each}.${sequence}.0.0`, again)
  }
}

/**
 * Makes the server drop pulls of readers that have gone: sends a pull with a live subscriber, which is answered after the
 * others are dropped.
 *
 * Server 2.9.10 assigns a released message to such a pull, finds no subscriber, and loses sight of the message until its
 * claim runs out.
 */
export const sweep = ({ of, pulls, take }: Successor): Effect.Effect<void, Failed> =>
  Effect.suspend(() => {
    const { client, options, connection, source } = of
    const answered = Latch.makeUnsafe(false)
    const inbox = createInbox(client.options.inboxPrefix)
    return Effect.acquireUseRelease(
      connection.attempt("consume", async (nc) =>
        nc.subscribe(inbox, {
          callback: (error, message) => {
            if (error === null && message.reply !== undefined && message.reply !== "") take(message)
            answered.openUnsafe()
          }
        }), { channel: source.channel, group: options.group }),
      () => {
        const failed = connection.write(
          "consume",
          pulls.subject,
          encoder.encode(JSON.stringify({ batch: 1, expires: 5e6 })),
          { reply: inbox }
        )
        if (failed !== undefined) return Effect.fail(failed)
        const off = connection.onEnd(() => answered.openUnsafe())
        return Effect.asVoid(Effect.timeoutOption(answered.await, 1000)).pipe(Effect.ensuring(Effect.sync(off)))
      },
      (subscription) => unsubscribe(connection, subscription)
    )
  })

/**
 * Where order matters: collects all delivered, unsettled messages of the group, in order.
 *
 * The server would redeliver them after `ack_wait`. Their former reader is gone, so this reader releases them through the
 * acknowledgement subjects of that reader, and they are redelivered at once; a server that ignores this redelivers them
 * after `ack_wait`.
 */
export const collect = (successor: Successor, info: Effect.Effect<Pending, Failed>): Effect.Effect<void, Failed> =>
  Effect.gen(function*() {
    const { backlog, of, pulls } = successor
    let pending = yield* info
    if (pending.count > 0) {
      yield* sweep(successor)
      pending = yield* info
      release(successor, pending)
    }
    // ignore messages that arrived after the server took its count
    const missing = () => {
      inOrder(backlog)
      return pending.count - backlog.all.filter(({ position }) => position <= pending.last).length
    }
    for (let left = missing(); left > 0; left = missing()) {
      pulls.ask(Math.min(left, of.options.batch), 1000)
      // one second for the pull, and one for a server that sends no status at its end
      for (let quiet = 0; quiet < 20 && pulls.wanted > 0;) {
        const { signs } = pulls
        yield* Effect.timeoutOption(pulls.answered.await, 100)
        if (signs !== pulls.signs) quiet = 0
        // pulls of a frozen reader still wait and take some messages: release again until those pulls are used up
        else if (++quiet % 2 === 0 && missing() > 0) release(successor, pending)
      }
      pulls.wanted = 0
      pending = yield* info
    }
  })
