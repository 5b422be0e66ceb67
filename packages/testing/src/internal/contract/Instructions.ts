/**
 * Scenarios of instructions to the transport: expiry, retain, priority, ids against duplicates. The broker obeys them in a
 * message that a publisher sends, and in no copy that the engine makes of it.
 */
import {
  Broker,
  Channel,
  DeadLetters,
  type Delivery,
  Engine,
  Lanes,
  type Outgoing,
  Replays,
  Retries,
  Subscription
} from "@millrace/core"
import { Effect, Scope, Stream } from "effect"
import { type Bench, bytesOf, ensure, hex, same, trouble } from "./Bench.ts"
import { type Declared, type Scenario, scenario } from "./Scenario.ts"

/** An instruction that no broker knows, which the scenario adds to those of the driver. */
const made = "x-contract-instruction"

const shown = (fields: Delivery["fields"]): ReadonlyArray<string> =>
  fields.map(([name, value]) => `${name}=${hex(value)}`).toSorted()

/**
 * The scenario's broker, with one more instruction than the driver has, and the messages that the engine publishes through
 * it.
 */
class Watched {
  readonly broker: Broker.Broker["Service"]
  readonly published: Array<Outgoing<Uint8Array>> = []
  readonly seen: Array<Delivery> = []
  /** The number of the handler's first calls that fail: the first with a transient error, later ones with a permanent one. */
  failures = 2
  private readonly bench: Bench
  private readonly declared: Declared
  private readonly instructions: ReadonlyArray<string>

  constructor(bench: Bench, declared: Declared) {
    const { driver } = bench.monitor
    this.bench = bench
    this.declared = declared
    this.instructions = [...driver.capabilities.instructions ?? [], made]
    this.broker = Engine.make({
      ...driver,
      capabilities: { ...driver.capabilities, instructions: this.instructions },
      publish: (batch) => {
        this.published.push(...batch)
        return driver.publish(batch)
      }
    })
  }

  is(name: string): boolean {
    const lower = name.toLowerCase()
    return this.instructions.some((each) => each.endsWith("*") ? lower.startsWith(each.slice(0, -1)) : each === lower)
  }

  /** The instructions among the fields. */
  of(fields: Delivery["fields"]): ReadonlyArray<string> {
    return shown(fields.filter(([name]) => this.is(name)))
  }

  /** The fields that keep instructions as information, under their original names. */
  kept(fields: Delivery["fields"]): ReadonlyArray<string> {
    const { instructionPrefix } = DeadLetters
    return shown(
      fields.filter(([name]) => name.toLowerCase().startsWith(instructionPrefix)).map(([name, value]) => [
        name.slice(instructionPrefix.length),
        value
      ])
    )
  }

  provide<A, E, R>(effect: Effect.Effect<A, E, R>) {
    return effect.pipe(Effect.provideService(Broker.Broker, this.broker), Scope.provide(this.bench.scope))
  }

  /** A subscription that delays its first retry and then gives up. */
  get subscription() {
    const { bench } = this
    const isRedelivered = bench.capabilities.settlement !== "none"
    return Subscription.make(
      Channel.bytes(bench.channel),
      {
        group: bench.group,
        name: "obeying",
        restart: { base: 10, cap: 500 },
        grace: { drain: 0 },
        lanes: Lanes.unordered(1),
        ...(isRedelivered ? { retries: Retries.delayed([20], { prefix: bench.channel }) } : { hold: { attempts: 2 } }),
        backoff: { base: 10 }
      },
      (delivery: Delivery) => {
        this.seen.push(delivery)
        return this.seen.length > this.failures
          ? Effect.void
          : Effect.fail(trouble(this.seen.length === 1 ? "transient" : "permanent"))
      }
    )
  }

  /** Publishes a message with every instruction that the author of the driver has declared. */
  get send() {
    const fields = [...Object.entries(this.declared.instructions), [made, "v"] as const]
    return this.bench.send("m", { key: "k", fields: fields.map(([name, value]) => [name, bytesOf(value)]) })
  }
}

const copied: Scenario = scenario(
  "transport-instructions",
  "instructions to the transport do not travel with dead letters and retries, and are kept there as information",
  ["F22", "X5"],
  (bench, declared) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const watched = new Watched(bench, declared)
      for (const name of Object.keys(declared.instructions)) {
        yield* ensure(watched.is(name), () => `the driver's capabilities do not name the instruction ${name}`)
      }
      const letters = yield* bench.letters()
      yield* watched.provide(Subscription.run(watched.subscription))
      yield* watched.send
      yield* bench.until("the dead letter is there", () => letters.got.length === 1, () => watched.seen.length)
      const [first, second] = watched.seen
      const wanted = watched.of(first!.fields)
      yield* ensure(wanted.length > Object.keys(declared.instructions).length, () => `the handler is shown ${wanted}`)
      yield* same("instructions as the handler is shown them at its second attempt", watched.of(second!.fields), wanted)
      yield* ensure(watched.published.length > 0, () => "the engine has published nothing")
      for (const { channel, fields } of watched.published) {
        yield* same(`instructions of what is published to ${channel}`, watched.of(fields), [])
        yield* same(`what is kept of them in ${channel}`, watched.kept(fields), wanted)
      }
      const { delivery } = letters.got[0]!
      yield* same("instructions of the dead letter", watched.of(delivery.fields), [])
      yield* same("what the dead letter keeps of them", watched.kept(delivery.fields), wanted)
    })
)

const replayed: Scenario = scenario(
  "transport-instructions-replay",
  "instructions to the transport do not travel with replays, unless a replay asks for it",
  ["F22", "X5"],
  (bench, declared) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const watched = new Watched(bench, declared)
      yield* watched.provide(Subscription.run(watched.subscription))
      yield* watched.provide(Replays.run(watched.subscription))
      yield* watched.send
      const letter = yield* bench.untilSome(
        "the dead letter is listed",
        Stream.runHead(DeadLetters.list(bench.deadLetters)).pipe(
          Effect.provideService(Broker.Broker, watched.broker),
          Effect.map((found) => found._tag === "Some" ? found.value : undefined)
        )
      )
      const wanted = watched.of(watched.seen[0]!.fields)
      const replay = (options: Omit<DeadLetters.ReplayOptions<Broker.Broker, never, never>, "through">) =>
        Effect.gen(function*() {
          watched.published.length = 0
          yield* watched.provide(DeadLetters.replay(letter, options))
          return watched.published.find(({ headers }) => headers["dead-letter-replayed"] === "true")!
        })
      for (const reach of ["all", "group"] as const) {
        const count = watched.seen.length
        const { fields } = yield* replay({ reach })
        yield* same(`instructions of a replay to ${reach}`, watched.of(fields), [])
        yield* same(`what a replay to ${reach} keeps of them`, watched.kept(fields), wanted)
        yield* bench.until(`the replay to ${reach} is there`, () => watched.seen.length === count + 1)
      }
      const [all, group] = watched.seen.slice(-2)
      yield* same("instructions of the replay that all groups get", watched.of(all!.fields), [])
      yield* same("instructions as the handler is shown them at a replay", watched.of(group!.fields), wanted)
      for (const reach of ["all", "group"] as const) {
        const { fields } = yield* replay({ reach, run: "obeyed", instructions: "obey" })
        yield* same(`instructions of a replay to ${reach} that asks for them`, watched.of(fields), wanted)
      }
    }),
  { needs: ["browse"] }
)

export const instructions: ReadonlyArray<Scenario> = [copied, replayed]
