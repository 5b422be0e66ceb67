/**
 * Taking over from a reader that is gone: what it was given and has not settled comes again at once, and in order.
 */
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

/** What a consumer has delivered and not heard of. */
export interface Pending {
  readonly count: number
  /** All up to this sequence of the stream is settled. */
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
  // it could be millions, of which a few are not settled: then time does it
  if (last - from > mostReleased) return
  const here = new Set(backlog.all.map(({ position }) => position))
  for (let each = from + 1; each <= last; each++) {
    if (here.has(each)) continue
    pulls.write(`$JS.ACK.${source.stream}.${durable}.1.${each}.${sequence}.0.0`, again)
  }
}

/**
 * Makes the server forget pulls that nobody listens to any more: one that listens, and is answered when they are gone.
 *
 * Server 2.9.10 takes a message that was given back for one of them, finds nobody, and loses sight of it until its claim
 * runs out.
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
 * Where order matters: takes in all that the group was given and has not settled, and puts it in order.
 *
 * The server would give it again when its claims have run out. Whoever had it is gone, so it is given back in his name, by
 * the subjects that he would have used, and comes at once; where a server takes no notice, it comes when the claims are out.
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
    // what came since the server counted says nothing of what it counted
    const missing = () => {
      inOrder(backlog)
      return pending.count - backlog.all.filter(({ position }) => position <= pending.last).length
    }
    for (let left = missing(); left > 0; left = missing()) {
      pulls.ask(Math.min(left, of.options.batch), 1000)
      // a second for the pull, and one for a server that says nothing at its end
      for (let quiet = 0; quiet < 20 && pulls.wanted > 0;) {
        const { signs } = pulls
        yield* Effect.timeoutOption(pulls.answered.await, 100)
        if (signs !== pulls.signs) quiet = 0
        // pulls of a reader that is frozen wait still, and take their part: given back again until they have had enough
        else if (++quiet % 2 === 0 && missing() > 0) release(successor, pending)
      }
      pulls.wanted = 0
      pending = yield* info
    }
  })
