/** A driver that does not know what order within a group is. */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, type Scope } from "effect"

/** How a wrong driver consumes by the right one. */
export type Consume = (
  consume: Driver.Driver["consume"],
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
) => Effect.Effect<void, BrokerError.BrokerError, Scope.Scope>

/** One member of each group reads, and what it gets is dealt to all of them in turn, whether they want order or not. */
export const sharing = (): Consume => {
  const groups = new Map<string, Array<{ readonly sink: Driver.Sink; readonly lease: Driver.Lease }>>()
  return (consume, options, sink) => {
    const name = `${options.channel} ${options.group}`
    const members = groups.get(name) ?? []
    groups.set(name, members)
    if (members.length > 0) {
      return Effect.suspend(() => {
        const lease = { ...members[0]!.lease }
        members.push({ sink, lease })
        sink.ready()
        sink.open(lease)
        return Effect.never
      })
    }
    let next = 0
    return consume(options, {
      ...sink,
      open: (lease) => {
        members.unshift({ sink, lease })
        sink.open(lease)
      },
      offer: (_, batch) =>
        Effect.forEach(batch, (delivery) => {
          const member = members[next++ % members.length]!
          return Effect.forkDetach(member.sink.offer(member.lease, [delivery]))
        }, { discard: true })
    })
  }
}
