import { it } from "@effect/vitest"
import { Console, Effect, Logger } from "effect"
import { describe, expect } from "vitest"
import { run } from "./chaos.ts"
import { subjects } from "./subjects.ts"

const seed = process.env["MILLRACE_SEED"] ?? `${Date.now() % 1_000_000}`

/** One minute of chaos over a broker. A file holds one, so that two run at a time: each has its own server and folders. */
export const underChaos = (subject: string): void => {
  const { delivery, isOrdered, title } = subjects[subject]!
  const promise = delivery === "at-most-once"
    ? "nothing comes twice, and what is lost is counted"
    : `nothing is lost${isOrdered ? ", each key in order" : ""}, and what comes again was in flight`
  describe("Chaos", () => {
    it.live(
      `T1 X3 X4 X5 ${title}: consumers are killed, stopped, frozen and added, the server twice restarted: ${promise}`,
      () =>
        run({
          subject,
          messages: 60_000,
          keys: 1000,
          rate: 1000,
          seed,
          say: (text) => Console.log(`${subject}: ${text}`)
        }).pipe(
          Effect.provide(Logger.layer([])),
          Effect.map((report) => {
            expect(report.broken.slice(0, 20)).toEqual([])
            expect(report.restarts).toBe(2)
            expect(report.killed + report.stopped + report.frozen).toBeGreaterThan(5)
          })
        ),
      300_000
    )
  })
}
