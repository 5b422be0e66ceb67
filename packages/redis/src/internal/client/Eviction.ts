/**
 * Warns about eviction: a server with another policy than `noeviction` deletes keys when its memory is full.
 */
import { Effect } from "effect"
import type { Client } from "./Client.ts"

/** The owner of the keys: a driver's keys never expire, so `volatile-` policies spare them; a store's keys expire. */
export type Kept = "driver" | "store"

const policyOf = (info: string): string | undefined => /^maxmemory_policy:([\w-]+)/m.exec(info)?.[1]

const isHarmless = (policy: string | undefined, kept: Kept): boolean =>
  policy === undefined || policy === "noeviction" || (kept === "driver" && policy.startsWith("volatile-"))

/**
 * Warns if servers may delete these keys. Gives no warning if the user lacks the right to `INFO`, or if a server does not
 * answer, which the first command reports.
 */
export const warn = (client: Client, kept: Kept): Effect.Effect<void> =>
  Effect.gen(function*() {
    const replies = yield* client.all("connect", "INFO", ["memory"])
    const policies = new Set(replies.map((reply) => policyOf(String(reply))))
    for (const policy of policies) {
      if (isHarmless(policy, kept)) continue
      const lost = kept === "driver" ? "whole streams and lists, with their messages" : "keys before their time"
      yield* Effect.logWarning(
        `Redis at ${client.place.address} may delete ${lost}, when its memory is full: its maxmemory-policy is ${policy}. Set it to noeviction, or use a server of its own.`
      )
    }
  }).pipe(
    // if a logger throws, its line is lost and the client goes on
    Effect.catchCause(() => Effect.void)
  )
