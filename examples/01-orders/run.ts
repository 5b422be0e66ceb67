/**
 * One run: publish what was planned, wait until all of it is settled, ask the witnesses, and compare.
 */
import { Audit, Broker, type BrokerError, Channel, Metrics, Publisher, Subscription, Trace } from "@millrace/core"
import { Clock, Console, Data, Effect, Runtime } from "effect"
import { Delays } from "./delays.ts"
import { generate, type Planned } from "./generator.ts"
import type { Services } from "./layers.ts"
import { Orders } from "./order.ts"
import { fulfilment } from "./pipeline.ts"
import { watch } from "./progress.ts"
import { reconcile } from "./reconcile.ts"
import * as Report from "./report.ts"
import { largest, Spans } from "./spans.ts"
import { deadLetters, testimony } from "./witnesses.ts"

/** Some messages were not what they had to become; said already. */
export class NotReconciled extends Data.TaggedError("NotReconciled") {
  override readonly [Runtime.errorReported] = false
}

/** The clients of the shop. Some of what they send is no order at all, so here it goes out as bytes; a thousand are traced. */
const publish = (plan: ReadonlyArray<Planned>) => {
  const sample = Math.min(1, 1000 / plan.length)
  const clients = Publisher.make(Channel.bytes(Orders.name), Trace.middleware({ sample }))
  return Effect.forEach(plan, ({ body, headers, key }) => clients.publish(body, { headers, key }), {
    concurrency: 4096,
    discard: true
  })
}

const prepare = Effect.gen(function*() {
  const broker = yield* Broker.Broker
  for (const channel of [Orders.name, deadLetters]) yield* broker.declare({ channel, partitions: 4 })
})

export type Failure = Audit.AuditError | BrokerError.BrokerError | Publisher.EncodeError | NotReconciled

export const run: (options: {
  readonly orders: number
  readonly seed: number
}) => Effect.Effect<void, Failure, Services> = Effect.fnUntraced(function*(options) {
  const began = yield* Clock.currentTimeMillis
  const id = began.toString(36)
  const plan = yield* generate({ ...options, run: id })

  yield* prepare
  yield* Console.log(Report.pipeline())
  yield* Console.log(Report.heading("On the way"))
  const running = yield* Subscription.run(fulfilment)
  yield* Effect.all([publish(plan), watch(running, plan.length)], { concurrency: "unbounded" })
  yield* running.drain

  const happened = yield* testimony(id, began)
  const audit = yield* Audit.Store
  const { rows } = yield* audit.query({ channel: Orders.name, limit: 5 })
  const { delayed } = yield* Delays
  const { recorded } = yield* Spans
  const differences = reconcile(plan, happened)
  yield* Console.log(Report.numbers({ statistics: yield* Metrics.snapshot, happened, delayed: delayed() }))
  yield* Console.log(Report.letters(happened.letters))
  yield* Console.log(Report.audit(rows))
  yield* Console.log(Report.trace(largest(recorded)))
  yield* Console.log(Report.verdict(plan, differences))
  if (differences.length > 0) return yield* new NotReconciled()
}, Effect.scoped)
