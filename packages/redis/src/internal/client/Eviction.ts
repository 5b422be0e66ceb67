/**
 * Eviction: a server with another policy than `noeviction` deletes keys when its memory is full.
 */
import { Effect } from "effect"
import type { Client } from "./Client.ts"

/** The keys of a driver have no expiry, so `volatile-` policies spare them; those of a store have one. */
export type Kept = "driver" | "store"

const policyOf = (info: string): string | undefined => /^maxmemory_policy:([\w-]+)/m.exec(info)?.[1]

const isHarmless = (policy: string | undefined, kept: Kept): boolean =>
  policy === undefined || policy === "noeviction" || (kept === "driver" && policy.startsWith("volatile-"))

/**
 * Warns where servers may delete what is kept there. A user who may not ask (`INFO`) is not told; a server that does not answer shows
 * with the first command.
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
    // a logger that throws loses its line, and the client goes on
    Effect.catchCause(() => Effect.void)
  )
