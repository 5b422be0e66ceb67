/**
 * State that the parts of the Streams driver share: the connection, times, and locks that ended consumers left behind.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, Random } from "effect"
import type * as Client from "../client/Client.ts"
import type { ResolvedOptions } from "../client/Options.ts"
import * as Scripts from "./Scripts.ts"

type Failed = BrokerError.BrokerError

/** Times in milliseconds. */
export interface Times {
  readonly claim: number
  readonly lock: number
  /** Between two attempts to get the lock. */
  readonly standBy: number
  /** How long Redis may block a read of an empty stream. */
  readonly maximumWait: number
  /** Between two sweeps. */
  readonly sweep: number
}

/** The limits of a stream's length or age. */
export interface Retention {
  readonly maximumLength: number | undefined
  /** In milliseconds. */
  readonly maximumAge: number | undefined
}

/** State that all parts of one driver share. */
export class Streams {
  readonly resolved: ResolvedOptions
  readonly connection: Client.Client
  readonly times: Times
  readonly retention: Retention
  /** Channels that this process has declared temporary, and made. */
  readonly temporary = new Set<string>()
  private readonly left = new Map<string, Set<string>>()
  private readonly known = new Set<string>()

  constructor(resolved: ResolvedOptions, connection: Client.Client, times: Times, retention: Retention) {
    this.resolved = resolved
    this.connection = connection
    this.times = times
    this.retention = retention
  }

  /** A random token, unique to one consumer. */
  readonly token: Effect.Effect<string> = Effect.map(
    Effect.all([Random.nextIntBetween(0, 0xffffffff), Random.nextIntBetween(0, 0xffffffff)]),
    (numbers) => numbers.map((n) => n.toString(16).padStart(8, "0")).join("")
  )

  /** Tokens of ended consumers of this process that may still hold the lock. */
  abandoned(lock: string): ReadonlyArray<string> {
    return Array.from(this.left.get(lock) ?? [])
  }

  abandon(lock: string, token: string): void {
    const tokens = this.left.get(lock) ?? new Set()
    this.left.set(lock, tokens.add(token))
  }

  /** Makes the group if missing. A group that was deleted with its stream while this process ran begins at the start. */
  begin({ channel, from, group }: Driver.ConsumeOptions): Effect.Effect<void, Failed> {
    const { connection, known } = this
    const name = JSON.stringify([channel, group])
    const at = from === "latest" && !known.has(name) ? "$" : "0"
    return Effect.map(
      connection.perform("consume", Scripts.begin, [channel], [group, at], { channel, group }),
      () => void known.add(name)
    )
  }

  /** Warns that messages were deleted before the group had settled them. */
  trimmed({ channel, group }: Driver.ConsumeOptions, count: number): Effect.Effect<void> {
    const line = Effect.logWarning(
      `${count} messages of ${channel} were deleted from the stream before group ${group} had settled them: keep more of it, or let the group catch up`
    )
    // if a logger throws, its line is lost and the source goes on
    return Effect.catchCause(line, () => Effect.void)
  }
}
