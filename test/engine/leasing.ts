/**
 * The leases of a worker that does not exist: what they ask of it is recorded in order.
 */
import { Effect } from "effect"
import { Leases } from "../../packages/core/src/internal/engine/Leases.ts"
import type { LeaseState } from "../../packages/core/src/internal/engine/LeaseState.ts"
import { fakeLease, type Options } from "./support.ts"

/** Milliseconds that handlers of a revoked lease have. */
export const revoke = 100

const leasing = Effect.map(Effect.context<never>(), (context) => {
  const asked: Array<string> = []
  const record = (call: string) => ({ lease: { partition }, lost, stopped }: LeaseState) =>
    void asked.push([call, partition, ...stopped ? ["stopped"] : [], ...lost ? ["lost"] : []].join(" "))
  const leases = new Leases({
    context,
    consumer: { grace: { revoke, drain: 0 }, inFlight: { messages: 4, bytes: 1_000_000 } },
    interrupt: record("interrupt"),
    cancel: record("cancel"),
    giveUp: record("give up"),
    forget: record("forget"),
    calls: () => void asked.push("calls"),
    failed: (error) => void asked.push(`failed: ${error instanceof Error ? error.message : String(error)}`),
    noted: (error) => void asked.push(`noted: ${error instanceof Error ? error.message : String(error)}`)
  })
  return { leases, asked }
})

/** As many open leases; `asked` are the calls to their worker, each with partition and state of its lease. */
export const opened = (...options: ReadonlyArray<Options>) =>
  Effect.gen(function*() {
    const { asked, leases } = yield* leasing
    const all = yield* Effect.forEach(options, (each, partition) =>
      fakeLease({ ...each, lease: { partition, ...each.lease } }))
    for (const { state } of all) {
      leases.open(state)
    }
    return { asked, leases, all }
  })
