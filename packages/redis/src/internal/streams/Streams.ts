/**
 * What the parts of the Streams driver share: its connection, its times, and what lives of this program left behind.
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
  /** How long Redis may hold an answer back until there is something to tell. */
  readonly maximumWait: number
  /** Between two looks for what else may run. */
  readonly sweep: number
}

/** How much of a stream is kept. */
export interface Retention {
  readonly maximumLength: number | undefined
  /** In milliseconds. */
  readonly maximumAge: number | undefined
}

/** Shared by all that is done by one driver. */
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

  /** A word that nobody else has. */
  readonly token: Effect.Effect<string> = Effect.map(
    Effect.all([Random.nextIntBetween(0, 0xffffffff), Random.nextIntBetween(0, 0xffffffff)]),
    (numbers) => numbers.map((n) => n.toString(16).padStart(8, "0")).join("")
  )

  /** Tokens of lives of this program that are over, and may still hold the lock. */
  abandoned(lock: string): ReadonlyArray<string> {
    return Array.from(this.left.get(lock) ?? [])
  }

  abandon(lock: string, token: string): void {
    const tokens = this.left.get(lock) ?? new Set()
    this.left.set(lock, tokens.add(token))
  }

  /** Makes the group where it is not yet. One that was there before, and is gone with its stream, begins with all there is. */
  begin({ channel, from, group }: Driver.ConsumeOptions): Effect.Effect<void, Failed> {
    const { connection, known } = this
    const name = JSON.stringify([channel, group])
    const at = from === "latest" && !known.has(name) ? "$" : "0"
    return Effect.map(
      connection.perform("consume", Scripts.begin, [channel], [group, at], { channel, group }),
      () => void known.add(name)
    )
  }

  /** Tells that messages went before they were done. */
  trimmed({ channel, group }: Driver.ConsumeOptions, count: number): Effect.Effect<void> {
    const line = Effect.logWarning(
      `${count} messages of ${channel} were deleted from the stream before group ${group} had settled them: keep more of it, or let the group catch up`
    )
    // a logger that throws loses its line, and the source goes on
    return Effect.catchCause(line, () => Effect.void)
  }
}
