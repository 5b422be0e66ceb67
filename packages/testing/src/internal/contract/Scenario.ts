/** The type of a scenario, the features it may need of a broker, and the proofs for features that a broker lacks. */
import type { BrokerError } from "@millrace/core"
import { Lanes, Outcome } from "@millrace/core"
import { Effect, Exit, type Scope, Stream } from "effect"
import { type Bench, type Broken, bytesOf, refusedWith, same } from "./Bench.ts"

/** The kinds of header fields beyond one text for each lower-case name. */
export type Fields = "duplicate" | "binary" | "null" | "case" | "control"

/** A feature that a broker may lack. */
export type Feature =
  | "browse"
  | "tombstones"
  | "groups"
  | "redelivery"
  | "order"
  | "partitions"
  | "chosen partitions"
  | "timestamps"
  | "attempts"
  | "delay"
  | "replay"
  | "fanOut"
  | "patterns"
  | "lag"
  | "limit"
  | "added partitions"
  | `${Fields} headers`

/** Takes a broker down, as a crash would, and brings it back. */
export interface Outage {
  readonly stop: Effect.Effect<void, unknown>
  readonly start: Effect.Effect<void, unknown>
  /** Whether messages and positions survive the outage. Default: the broker's `persistence`. */
  readonly keeps?: boolean | undefined
  /** Gives a channel more partitions, `partitions` in all, if the broker supports this. */
  readonly grow?: ((channel: string, partitions: number) => Effect.Effect<void, unknown>) | undefined
}

/** The properties that the broker's author declared, for the scenario. */
export interface Declared {
  /** Whether subscribing or publishing to a missing channel creates it or is refused. */
  readonly missing: "created" | "refused"
  readonly fields: ReadonlyArray<Fields>
  /** Header fields that the broker obeys, each with a value. */
  readonly instructions: Readonly<Record<string, string>>
  /** The longest body, or undefined if there is no limit. */
  readonly maximumBytes: number | undefined
  readonly outage: Outage
}

/** The errors of a scenario. */
export type Failures = Broken | BrokerError.BrokerError

/** The program of a scenario. */
export type Body = (bench: Bench, declared: Declared) => Effect.Effect<void, Failures, Scope.Scope>

/** One promise of the contract. */
export interface Scenario {
  readonly id: string
  readonly title: string
  /** The requirement ids that the scenario proves. */
  readonly rows: ReadonlyArray<string>
  /** The features that the scenario needs; if the broker lacks some, their lack is proved instead. */
  readonly needs: ReadonlyArray<Feature>
  /** Whether the scenario takes the broker down, and so runs alone. */
  readonly alone: boolean
  readonly run: Body
}

/** Makes a scenario. */
export const scenario = (
  id: string,
  title: string,
  rows: ReadonlyArray<string>,
  run: Body,
  options: { readonly needs?: ReadonlyArray<Feature>; readonly alone?: boolean } = {}
): Scenario => ({ id, title, rows, run, needs: options.needs ?? [], alone: options.alone ?? false })

/** The features among `needs` that a broker lacks. */
export const lacks = (needs: ReadonlyArray<Feature>, bench: Bench, declared: Declared): ReadonlyArray<Feature> => {
  const { capabilities } = bench
  const has = (feature: Feature): boolean => {
    switch (feature) {
      case "browse":
      case "tombstones":
      case "groups":
      case "redelivery":
      case "attempts":
      case "delay":
      case "replay":
      case "fanOut":
      case "patterns":
      case "lag":
        return capabilities[feature]
      case "order":
        return capabilities.ordering !== "none"
      case "chosen partitions":
        return capabilities.partitions
      case "timestamps":
        return capabilities.timestamps !== "none"
      case "partitions":
        return capabilities.ordering === "partition"
      case "added partitions":
        return declared.outage.grow !== undefined
      case "limit":
        return declared.maximumBytes !== undefined
      case "duplicate headers":
      case "binary headers":
      case "null headers":
      case "control headers":
      case "case headers":
        // the feature's name is made of the kind
        return declared.fields.includes(feature.slice(0, -" headers".length) as Fields)
    }
  }
  return needs.filter((feature) => !has(feature))
}

/** Fields that a broker of text headers cannot hold. */
export const fieldsOf: Record<Fields, ReadonlyArray<readonly [string, Uint8Array | null]>> = {
  duplicate: [["twice", bytesOf("first")], ["once", bytesOf("only")], ["twice", bytesOf("second")]],
  binary: [["bytes", new Uint8Array([0, 255, 254, 128, 10, 13])]],
  null: [["nothing", null]],
  case: [["X-Upper", bytesOf("upper")], ["x-upper", bytesOf("lower")]],
  control: [["control", bytesOf("a\tb\u007f\u0001")]]
}

const noFields = (kind: Fields): Body => (bench) =>
  Effect.andThen(
    bench.declare(1),
    refusedWith(`a message with ${kind} headers`, bench.send("m", { fields: fieldsOf[kind] }), "Unsupported", "Invalid")
  )

const onePartition: Body = (bench) =>
  refusedWith(
    "declaring two partitions",
    bench.broker.declare({ channel: bench.channel, partitions: 2 }),
    "Unsupported",
    "Invalid"
  )

/** All messages in a channel now. */
export const browse = (bench: Bench, channel = bench.channel) => Stream.runCollect(bench.broker.browse(channel))

/** Checks that each delivery is counted as the first. */
const attemptOne = (bench: Bench) =>
  Effect.gen(function*() {
    yield* bench.declare(1)
    const first = yield* bench.consumer(() => Effect.never)
    yield* bench.send("again")
    yield* bench.has(first, ["again"])
    yield* first.stop
    const second = yield* bench.reader()
    yield* bench.has(second, ["again"])
    yield* same("the attempt where deliveries are not counted", second.got.map(({ attempt }) => attempt), [1])
  })

/** The proof of each missing feature: a typed refusal if the feature can be requested, else the behaviour without it. */
export const refusals: Record<Feature, Body> = {
  browse: (bench) =>
    Effect.andThen(
      bench.declare(1),
      refusedWith("browsing", browse(bench), "Unsupported")
    ),
  tombstones: (bench) =>
    Effect.andThen(
      bench.declare(1),
      refusedWith("publishing a null body", bench.send("", { key: "k", tombstone: true }), "Unsupported")
    ),
  groups: (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      yield* bench.reader()
      yield* refusedWith("a second consumer of a group", bench.reader(), "Unsupported")
    }),
  order: (bench) =>
    Effect.andThen(
      bench.declare(1),
      refusedWith("a subscription in the order of partitions", bench.reader({ lanes: Lanes.partition }), "Unsupported")
    ),
  partitions: onePartition,
  "chosen partitions": (bench) =>
    Effect.andThen(
      bench.declare(1),
      refusedWith("publishing to a partition", bench.send("m", { partition: 0 }), "Unsupported")
    ),
  timestamps: (bench) =>
    Effect.andThen(
      bench.declare(1),
      refusedWith("publishing with a timestamp", bench.send("m", { timestamp: 1_000_000 }), "Unsupported")
    ),
  // cannot be requested: unacknowledged messages are lost
  redelivery: (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const first = yield* bench.consumer(() => Effect.never)
      yield* bench.send("lost")
      yield* bench.has(first, ["lost"])
      yield* first.stop
      const second = yield* bench.reader()
      yield* bench.send("next")
      yield* bench.has(second, ["next"])
      yield* same("a broker without redelivery", second.texts, ["next"])
    }),
  // cannot be requested: each delivery is the first
  attempts: (bench, declared) =>
    bench.capabilities.redelivery ? attemptOne(bench) : refusals.redelivery(bench, declared),
  // cannot be requested: the engine holds waiting messages, so a restart begins the count anew
  delay: (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const first = yield* bench.consumer(() => Effect.succeed(Outcome.Retry({ after: "1 minute" })), {
        lanes: Lanes.unordered(2)
      })
      yield* bench.send("waits")
      yield* bench.has(first, ["waits"])
      yield* bench.quiet
      yield* same("what waits here", (yield* first.health).pending, 1)
    }),
  // cannot be requested: the group begins with new messages, and a broker may refuse a message without consumers
  replay: (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const before = yield* Effect.exit(bench.send("before"))
      if (Exit.isFailure(before)) yield* refusedWith("a message that nobody is there for", before, "Unreachable")
      const consumer = yield* bench.reader({ from: "earliest" })
      yield* bench.send("after")
      yield* bench.has(consumer, ["after"])
      yield* bench.quiet
      yield* same("a broker without replay", consumer.texts, ["after"])
    }),
  fanOut: (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      yield* bench.reader()
      yield* refusedWith("a second group", bench.reader({ group: `${bench.group}-second` }), "Unsupported", "Conflict")
    }),
  patterns: (bench) =>
    refusedWith("a subscription to a pattern", bench.reader({ channel: `${bench.channel}.{part}` }), "Unsupported"),
  lag: (bench) =>
    Effect.andThen(
      bench.declare(1),
      refusedWith("asking how far a group is behind", bench.broker.lag(bench.channel, bench.group), "Unsupported")
    ),
  "added partitions": (bench) =>
    Effect.andThen(
      bench.declare(1),
      refusedWith(
        "declaring more partitions than there are",
        bench.broker.declare({ channel: bench.channel, partitions: 2 }),
        "Conflict",
        "Unsupported",
        "Invalid"
      )
    ),
  // no limit was declared, so a body beyond every usual limit goes through
  limit: (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const consumer = yield* bench.consumer(() => Effect.void)
      yield* bench.send(new Uint8Array(5 * 1024 * 1024).fill(7), { key: "k" })
      yield* bench.until("5 MiB arrived", () => consumer.got.length === 1)
      yield* same("length", consumer.got[0]!.delivery.raw.length, 5 * 1024 * 1024)
    }),
  "duplicate headers": noFields("duplicate"),
  "binary headers": noFields("binary"),
  "null headers": noFields("null"),
  "case headers": noFields("case"),
  "control headers": noFields("control")
}
