/**
 * Drivers that do not keep the contract, each by one fault, made of the memory broker's.
 */
import { BrokerError, type Delivery, type Driver, Headers, type NativeParts, Outcome, Outgoing } from "@millrace/core"
import { Effect, Exit, Latch, Scope, Stream } from "effect"
import { copy, renamed, utf8 } from "./wrongParts.ts"
import { type Consume, sharing } from "./wrongSharing.ts"

type Right = Driver.Driver
/** A driver that does not keep the contract. */
export interface Wrong {
  readonly fault: string
  readonly form?: "position" | "message"
  /** The memory broker's claim, in milliseconds. */
  readonly claim?: number
  /** A scenario that must find it, and what it then says. */
  readonly found: string
  readonly says: RegExp
  readonly make: (right: Right) => Partial<Right>
}

/** A driver whose consuming goes wrong. */
const consuming = (wrong: Consume) => (right: Right): Partial<Right> => ({
  consume: (options, sink) => wrong(right.consume, options, sink)
})

/** A driver whose engine is told something else. */
const sinking = (wrong: (sink: Driver.Sink) => Partial<Driver.Sink>) =>
  consuming((consume, options, sink) => consume(options, { ...sink, ...wrong(sink) }))

/** A driver whose leases behave otherwise. */
const leasing = (wrong: (lease: Driver.Lease) => Partial<Driver.Lease>) =>
  sinking((sink) => {
    const leases = new Map<Driver.Lease, Driver.Lease>()
    return {
      open: (lease) => {
        const other = { ...lease, ...wrong(lease) }
        leases.set(lease, other)
        sink.open(other)
      },
      offer: (lease, batch) => sink.offer(leases.get(lease)!, batch),
      settled: (lease) => sink.settled(leases.get(lease)!),
      close: (lease, how) => sink.close(leases.get(lease)!, how)
    }
  })

/** A driver that publishes something else. */
const publishing =
  (wrong: (message: Outgoing<Uint8Array>) => Outgoing<Uint8Array>) => (right: Right): Partial<Right> => ({
    publish: (batch) => right.publish(batch.map(wrong))
  })

/** A driver that publishes other native parts. */
const reparted = (wrong: (native: NativeParts, message: Outgoing<Uint8Array>) => NativeParts) =>
  publishing((message) =>
    new Outgoing(
      message.channel,
      message.payload,
      message.key,
      message.headers,
      message.native && wrong(message.native, message)
    )
  )

/** A driver that publishes other header fields. */
const refielding = (wrong: (fields: ReadonlyArray<Headers.Field>) => ReadonlyArray<Headers.Field>) =>
  reparted((native) => ({ ...native, fields: native.fields && wrong(native.fields) }))

/** A driver that delivers something else. */
const delivering = (wrong: (batch: ReadonlyArray<Delivery>) => ReadonlyArray<Delivery>) =>
  sinking((sink) => ({ offer: (lease, batch) => sink.offer(lease, wrong(batch)) }))

export const wrongs: ReadonlyArray<Wrong> = [
  {
    fault: "acknowledges what it has only offered",
    found: "rule-7-done",
    says: /came again|committed|came back/,
    make: sinking((sink) => ({
      offer: (lease, batch) =>
        Effect.andThen(lease.commit!(batch.at(-1)!.at + 1).pipe(Effect.orDie), sink.offer(lease, batch))
    }))
  },
  {
    fault: "acknowledges each message as it is offered",
    form: "message",
    found: "rule-7-done",
    says: /came again/,
    make: sinking((sink) => ({
      offer: (lease, batch) =>
        Effect.andThen(
          lease.settle!(batch.map((delivery) => ({ delivery, outcome: Outcome.Ack }))).pipe(Effect.orDie),
          sink.offer(lease, batch)
        )
    }))
  },
  {
    fault: "commits past a gap, to the last that was offered",
    found: "gap-drain",
    says: /came back/,
    make: consuming((consume, options, sink) => {
      const ends = new Map<Driver.Lease, number>()
      const wrapped = leasing((lease) => ({ commit: () => lease.commit!(ends.get(lease)!) }))
      return wrapped({
        consume: (_, inner) =>
          consume(options, {
            ...inner,
            offer: (lease, batch) => {
              ends.set(lease, batch.at(-1)!.at + 1)
              return inner.offer(lease, batch)
            }
          })
      } as Right).consume!(options, sink)
    })
  },
  {
    fault: "never commits",
    found: "latest-resumes",
    says: /came again|got/,
    make: leasing(() => ({ commit: () => Effect.void }))
  },
  {
    fault: "takes what is given back for done",
    form: "message",
    found: "gap-drain",
    says: /came back/,
    make: leasing((lease) => ({
      settle: (batch) => lease.settle!(batch.map(({ delivery }) => ({ delivery, outcome: Outcome.Ack })))
    }))
  },
  {
    fault: "loses one nack in two",
    form: "message",
    found: "leave",
    says: /missing/,
    make: leasing((lease) => ({
      settle: (batch) =>
        lease.settle!(batch.map((each, i) => i % 2 === 0 ? each : { delivery: each.delivery, outcome: Outcome.Ack }))
    }))
  },
  {
    fault: "does not count deliveries, and says that it does",
    form: "message",
    found: "attempts",
    says: /attempts/,
    make: delivering((batch) => batch.map((delivery) => copy(delivery, { attempt: 1 })))
  },
  {
    fault: "drops headers",
    found: "publish-before-subscribe",
    says: /headers/,
    make: publishing((message) =>
      new Outgoing(message.channel, message.payload, message.key, Headers.empty, message.native)
    )
  },
  {
    fault: "keeps one field of each name",
    found: "headers-duplicate",
    says: /fields/,
    make: refielding((fields) => Array.from(new Map(fields)))
  },
  {
    fault: "writes header bytes as text",
    found: "headers-binary",
    says: /fields/,
    make: refielding((fields) => fields.map(([name, value]) => [name, value && utf8(value)]))
  },
  {
    fault: "drops headers without a value",
    found: "headers-null",
    says: /fields/,
    make: refielding((fields) => fields.filter(([, value]) => value !== null))
  },
  {
    fault: "writes header names in lower case",
    found: "headers-case",
    says: /fields/,
    make: refielding((fields) => fields.map(([name, value]) => [name.toLowerCase(), value]))
  },
  {
    fault: "writes bodies as text",
    found: "payload-binary",
    says: /body/,
    make: publishing((message) => message.withPayload(utf8(message.payload)))
  },
  {
    fault: "drops key bytes",
    found: "dead-letter-replay",
    says: /key/,
    make: reparted((native, { channel }) => ({
      ...native,
      keyBytes: channel.endsWith(".dead-letters") ? undefined : native.keyBytes
    }))
  },
  {
    fault: "takes an empty body for a tombstone",
    found: "tombstone",
    says: /tombstones/,
    make: delivering((batch) => batch.map((delivery) => copy(delivery, { tombstone: delivery.payload.length === 0 })))
  },
  {
    fault: "drops the mark of tombstones",
    found: "tombstone",
    says: /tombstones/,
    make: delivering((batch) => batch.map((delivery) => copy(delivery, { tombstone: false })))
  },
  {
    fault: "goes on browsing what came meanwhile",
    found: "browse-ends",
    says: /what was read/,
    make: (right) => ({
      browse: (channel) => Stream.concat(right.browse(channel), Stream.suspend(() => right.browse(channel)))
    })
  },
  {
    fault: "chooses partitions by itself",
    found: "publish-partition",
    says: /where they are|expected a BrokerError Invalid/,
    make: reparted(({ partition: _, ...native }) => native)
  },
  {
    fault: "has no choice of partitions, says so, and takes one",
    found: "publish-partition",
    says: /publishing to a partition: expected a BrokerError Unsupported/,
    make: (right) => ({ capabilities: { ...right.capabilities, partitions: false } })
  },
  {
    fault: "keeps timestamps of its own",
    found: "publish-timestamp",
    says: /timestamps/,
    make: reparted(({ timestamp: _, ...native }) => native)
  },
  {
    fault: "has no timestamps of publishers, says so, and takes one",
    found: "publish-timestamp",
    says: /publishing with a timestamp: expected a BrokerError Unsupported/,
    make: (right) => ({ capabilities: { ...right.capabilities, timestamps: "none" } })
  },
  {
    fault: "reorders a batch on its way in",
    found: "order-key",
    says: /began and|offered after|not:/,
    make: delivering((batch) => batch.toReversed())
  },
  {
    fault: "reorders a batch on its way out",
    found: "publish-all-order",
    says: /order/,
    make: (right) => ({ publish: (batch) => right.publish(batch.toReversed()) })
  },
  {
    fault: "ignores keys",
    found: "order-key",
    says: /began/,
    make: publishing(({ channel, headers, payload }) => new Outgoing(channel, payload, undefined, headers))
  },
  {
    fault: "ignores keys that are no text",
    found: "order-key-binary",
    says: /began/,
    make: publishing(({ channel, headers, key, payload }) => new Outgoing(channel, payload, key, headers))
  },
  {
    fault: "confirms before it has the message",
    found: "publish-confirm",
    says: /right after publishing/,
    make: (right) => ({
      publish: (batch) =>
        Effect.asVoid(Effect.forkDetach(Effect.andThen(Effect.sleep(20), Effect.suspend(() => right.publish(batch)))))
    })
  },
  {
    fault: "swallows errors of publishing",
    found: "outage",
    says: /refused/,
    make: (right) => ({ publish: (batch) => Effect.ignore(right.publish(batch)) })
  },
  {
    fault: "gives no reason for its errors",
    found: "too-large",
    says: /TooLarge/,
    make: (right) => ({ publish: (batch) => Effect.mapError(Effect.suspend(() => right.publish(batch)), renamed) })
  },
  {
    fault: "does not notice that its connection has ended",
    found: "outage",
    says: /is done|shared|confirmed|publishing works/,
    // nor by a settlement that fails: the engine would start its source again
    make: consuming((consume, options, sink) => {
      const deaf = leasing(({ commit, settle }) => ({
        commit: commit && ((position) => Effect.ignore(commit(position))),
        settle: settle && ((batch) => Effect.ignore(settle(batch)))
      }))
      const { consume: quiet } = deaf({ consume } as Right)
      return Effect.catch(quiet!(options, sink), () => Effect.never)
    })
  },
  {
    fault: "does not read on once it had to wait",
    found: "saturation",
    says: /all are done/,
    make: sinking((sink) => ({
      offer: (lease, batch) => {
        const offered = sink.offer(lease, batch)
        return Exit.isExit(offered) ? offered : Effect.never
      }
    }))
  },
  {
    fault: "forgets to resume",
    found: "pause",
    says: /has 5 messages/,
    make: consuming((consume, options, sink) => {
      const open = Latch.makeUnsafe(true)
      const paused = leasing(() => ({ pause: open.close.pipe(Effect.asVoid), resume: Effect.void }))
      return paused({
        consume: (_, inner) =>
          consume(options, { ...inner, offer: (lease, batch) => Effect.andThen(open.await, inner.offer(lease, batch)) })
      } as Right).consume!(options, sink)
    })
  },
  {
    fault: "does not wait for room",
    found: "saturation",
    says: /taken in/,
    make: sinking((sink) => ({ offer: (lease, batch) => Effect.asVoid(Effect.forkDetach(sink.offer(lease, batch))) }))
  },
  {
    fault: "offers more at once than it was asked for",
    found: "saturation",
    says: /taken in|at once/,
    make: consuming((consume, options, sink) => consume({ ...options, batch: 1000 }, sink))
  },
  {
    fault: "gives up a partition without waiting for what runs",
    found: "rebalance-finish",
    says: /interrupted|settled after/,
    make: sinking((sink) => ({ close: (lease) => sink.close(lease, "lost") }))
  },
  {
    fault: "does not tell that a partition was taken away",
    found: "rebalance-finish",
    says: /beside themselves|while another|shared/,
    make: sinking(() => ({ close: () => Effect.void }))
  },
  {
    fault: "stays in the group after a drain",
    found: "leave",
    says: /missing/,
    make: consuming((consume, options, sink) => Scope.provide(consume(options, sink), Scope.makeUnsafe()))
  },
  {
    fault: "gives each consumer of a group all messages",
    found: "publish-concurrent",
    says: /shared|arrived/,
    make: consuming((consume, options, sink) =>
      consume({ ...options, group: `${options.group} ${options.handler}` }, sink)
    )
  },
  {
    fault: "gives the messages of one group to all groups",
    found: "groups",
    says: /missing/,
    make: consuming((consume, options, sink) => consume({ ...options, group: "all" }, sink))
  },
  {
    fault: "begins with the latest, whatever it is told",
    found: "publish-before-subscribe",
    says: /missing/,
    make: consuming((consume, options, sink) => consume({ ...options, from: "latest" }, sink))
  },
  {
    fault: "begins with the earliest, whatever it is told",
    found: "earliest-latest",
    says: /from the latest/,
    make: consuming((consume, options, sink) => consume({ ...options, from: "earliest" }, sink))
  },
  {
    fault: "is ready before it is there",
    found: "earliest-latest",
    says: /has 1 messages/,
    make: consuming((consume, options, sink) => {
      sink.ready()
      return Effect.andThen(Effect.sleep(50), consume(options, sink))
    })
  },
  {
    fault: "declares over what is there",
    found: "declare",
    says: /Conflict/,
    make: (right) => ({ declare: (declaration) => Effect.ignore(right.declare(declaration)) })
  },
  {
    fault: "browses from the newest",
    found: "browse",
    says: /what is there/,
    make: (right) => ({
      browse: (channel) =>
        Stream.unwrap(
          Effect.map(Stream.runCollect(right.browse(channel)), (all) => Stream.fromIterable(all.toReversed()))
        )
    })
  },
  {
    fault: "cannot browse, says so, and answers nothing instead of refusing",
    found: "browse",
    says: /browsing: expected a BrokerError Unsupported/,
    make: (right) => ({ capabilities: { ...right.capabilities, browse: false }, browse: () => Stream.empty })
  },
  {
    fault: "has no tombstones, says so, and writes an empty body",
    found: "tombstone",
    says: /null body: expected a BrokerError Unsupported/,
    make: (right) => ({ capabilities: { ...right.capabilities, tombstones: false } })
  },
  {
    fault: "has no groups, says so, and takes a second consumer",
    found: "groups",
    says: /second consumer of a group: expected a BrokerError Unsupported/,
    make: (right) => ({ capabilities: { ...right.capabilities, groups: false } })
  },
  {
    fault: "delivers again, and says that it does not",
    found: "gap-drain",
    says: /without redelivery/,
    make: (right) => ({ capabilities: { ...right.capabilities, redelivery: false } })
  },
  {
    fault: "does not see channels that are made later",
    found: "patterns",
    says: /not: c1 has 1/,
    make: consuming((consume, options, sink) => {
      const known = new Set<string>()
      let isStarted = false
      const { pattern } = options
      return consume({
        ...options,
        pattern: pattern && {
          ...pattern,
          match: (channel) => {
            if (!isStarted) known.add(channel)
            return known.has(channel) ? pattern.match(channel) : undefined
          }
        }
      }, {
        ...sink,
        ready: () => {
          isStarted = true
          sink.ready()
        }
      })
    })
  },
  {
    fault: "takes each start on a pattern for that of a new group",
    found: "pattern-while-away",
    says: /has 2 messages/,
    make: (right) => {
      let starts = 0
      return {
        consume: (options, sink) =>
          right.consume(options.pattern === undefined ? options : { ...options, channel: `${++starts}` }, sink)
      }
    }
  },
  {
    fault: "reads more channels than fit",
    found: "patterns",
    says: /what was read/,
    make: consuming((consume, options, sink) => {
      const { pattern } = options
      const prefix = pattern?.address.split("{")[0] ?? ""
      return consume({
        ...options,
        pattern: pattern && { ...pattern, match: (channel) => channel.startsWith(prefix) ? {} : undefined }
      }, sink)
    })
  },
  {
    fault: "counts what is delivered for done",
    found: "lag",
    says: /ten wait/,
    make: (right) => ({
      lag: (channel, group) =>
        Effect.map(right.lag(channel, group), (lags) => lags.map(({ partition }) => ({ partition, messages: 0 })))
    })
  },
  {
    fault: "counts for a group that it does not have",
    found: "lag",
    says: /nobody knows/,
    make: () => ({ lag: () => Effect.succeed([{ partition: 0, messages: 0 }]) })
  },
  {
    fault: "says that it is well while it is down",
    found: "outage",
    says: /for its health/,
    make: () => ({ check: Effect.void })
  },
  {
    fault: "does not keep the claims of what is being handled",
    form: "message",
    claim: 200,
    found: "claim",
    says: /while it runs/,
    make: leasing(() => ({ extend: () => Effect.void }))
  },
  {
    fault: "writes header values without their control characters",
    found: "headers-control",
    says: /fields/,
    make: refielding((fields) =>
      fields.map(([name, value]) => [name, value && value.filter((byte) => byte > 31 && byte !== 127)])
    )
  },
  {
    fault: "has one group for a channel, says so, and takes a second",
    found: "history",
    says: /a second group: expected a BrokerError/,
    make: (right) => ({ capabilities: { ...right.capabilities, fanOut: false } })
  },
  {
    fault: "loses the first message of a channel",
    found: "empty-channel",
    says: /has 1 messages/,
    make: sinking((sink) => ({
      offer: (lease, batch) => {
        const rest = batch.filter(({ position }) => position > 0)
        return rest.length === 0
          ? Effect.orDie(lease.commit?.(1) ?? Effect.void)
          : sink.offer(lease, rest)
      }
    }))
  },
  {
    fault: "refuses channels that nobody declared, and says that it makes them",
    found: "missing-channel",
    says: /Declare it/,
    make: (right) => ({
      publish: () =>
        Exit.fail(
          BrokerError.make({ system: "wrong", operation: "publish", reason: "NotFound", message: "Declare it." })
        ),
      declare: right.declare
    })
  },
  {
    fault: "shares a partition among members that want order",
    form: "message",
    found: "order-group",
    says: /messages that run while the first does/,
    make: consuming(sharing())
  },
  {
    fault: "gives copies the instructions of its options",
    found: "transport-instructions",
    says: /instructions (as the handler is shown them|of the dead letter)/,
    make: (right) => ({
      capabilities: { ...right.capabilities, instructions: ["expires"] },
      publish: (batch) => right.publish(batch.map((message) => message.withHeader("expires", "60")))
    })
  },
  {
    fault: "delivers each message twice",
    found: "rule-9-retry-after",
    says: /attempts/,
    make: delivering((batch) => batch.flatMap((delivery) => [delivery, copy(delivery, {})]))
  }
]
