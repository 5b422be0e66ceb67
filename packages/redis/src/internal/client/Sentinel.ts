/**
 * Finds the primary through Redis Sentinel: asks before each attempt to connect, and watches for failovers while connected.
 *
 * Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
 */
import { BrokerError } from "@millrace/core"
import { Effect } from "effect"
import * as Address from "./Address.ts"
import * as Connection from "./Connection.ts"
import type { Target } from "./ServerConnection.ts"
import type { ResolvedOptions, Sentinels } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** The longest that one sentinel may take to answer, in milliseconds. */
const patience = 1000
/** The cause of the error that reports a moved primary. */
const isMoved = "moved"
/** Milliseconds between two checks whether the primary is still the same. */
const pace = 1000

const unknown = (sentinels: Sentinels): Failed =>
  BrokerError.make({
    system: "redis",
    operation: "connect",
    reason: "Unreachable",
    message: `The sentinels at ${
      sentinels.addresses.map(Address.textOf).join(", ")
    } know no primary called ${sentinels.name}: correct name, or wait until they have elected one.`
  })

/** Locates the primary, and fails its connection when it moves. */
export const target = (resolved: ResolvedOptions, sentinels: Sentinels): Target => {
  const asking: ResolvedOptions = {
    ...resolved,
    connectTimeout: Math.min(resolved.connectTimeout, patience),
    requestTimeout: patience,
    boundsEach: false,
    // sentinels have users of their own
    credentials: undefined,
    place: { ...resolved.place, user: sentinels.username },
    native: { ...sentinels.native, connectTimeout: Math.min(resolved.connectTimeout, patience) }
  }
  // ask the sentinel that answered last first
  let order = sentinels.addresses

  const ask = (connection: Connection.Connection): Effect.Effect<Address.Address | undefined, Failed> =>
    Effect.map(
      connection.attempt("connect", () => connection.send("SENTINEL", ["get-master-addr-by-name", sentinels.name])),
      (reply) => Array.isArray(reply) ? { host: String(reply[0]), port: Number(reply[1]) } : undefined
    )

  const locate = Effect.gen(function*() {
    let failure = unknown(sentinels)
    for (const address of order) {
      const asked = Effect.scoped(Effect.flatMap(Connection.open(asking, address), ask))
      const found = yield* Effect.exit(asked)
      if (found._tag === "Success" && found.value !== undefined) {
        order = [address, ...order.filter((each) => each !== address)]
        return found.value
      }
      const reason = found._tag === "Failure" ? found.cause.reasons.find((each) => each._tag === "Fail") : undefined
      if (reason !== undefined) failure = reason.error
    }
    return yield* Effect.fail(failure)
  })

  /** Watches through one sentinel as long as it answers. */
  const watch = (known: Address.Address, sentinel: Address.Address): Effect.Effect<never, Failed> =>
    Effect.scoped(Effect.flatMap(Connection.open(asking, sentinel), (connection) =>
      Effect.forever(Effect.andThen(
        Effect.sleep(pace),
        Effect.flatMap(ask(connection), (found) =>
          found === undefined || Address.textOf(found) === Address.textOf(known)
            ? Effect.void
            : Effect.fail(moved(known, found)))
      ))))

  const moved = (from: Address.Address, to: Address.Address): Failed =>
    BrokerError.make({
      system: "redis",
      operation: "connect",
      reason: "Lost",
      message: `${sentinels.name} moved from ${Address.textOf(from)} to ${Address.textOf(to)}.`,
      cause: isMoved
    })

  return {
    locate,
    moved: (address) => {
      let next = 0
      return Effect.forever(Effect.catchIf(
        Effect.suspend(() => watch(address, sentinels.addresses[next++ % sentinels.addresses.length]!)),
        // if a sentinel does not answer, ask the next one
        (error) => error.cause !== isMoved,
        () => Effect.sleep(pace)
      ))
    }
  }
}
