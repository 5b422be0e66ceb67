import { PgClient } from "@effect/sql-pg"
import { it } from "@effect/vitest"
import { Channel, Health, Lanes, type Message, Subscription } from "@millrace/core"
import { HealthRoutes } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Nats } from "@millrace/nats"
import { IdempotencyRedis, RateLimitRedis } from "@millrace/redis"
import { AuditPostgres, SqlHealth } from "@millrace/sql"
import { Nats as NatsServers, Postgres, Redis, type Server } from "@millrace/testing/servers"
import { Context, Effect, Layer, Redacted, References, Schedule } from "effect"
import { spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { createServer } from "node:http"
import { createInterface } from "node:readline"
import { describe, expect, vi } from "vitest"
import { describeServer } from "../services/describe.ts"
import { call } from "./support.ts"

const servers = Effect.all({ redis: Redis.own(), postgres: Postgres.own(), nats: NatsServers.own() }, {
  concurrency: "unbounded"
})

type Servers = Effect.Success<typeof servers>

// servers that start and stop, three of them in a test
vi.setConfig({ testTimeout: 120_000 })

const timeLimit = 1500

const common = { timeLimit, cache: 0 }

/** A program of all that it asks, on a server of Node's; its base URL. */
const program = ({ nats, postgres, redis }: Servers) => {
  const health = Health.layer([
    Health.broker({ name: "nats", ...common }),
    Health.idempotency({ name: "redis keys", ...common }),
    Health.rateLimit({ name: "redis limits", ...common }),
    Health.audit({ name: "postgres audit", ...common }),
    SqlHealth.client({ name: "postgres client", ...common })
  ])
  const client = PgClient.layer({ url: postgres.url, maxConnections: 2, connectTimeout: "2 seconds" })
  const outside = Layer.mergeAll(
    Nats.layer({ servers: Redacted.value(nats.url) }),
    IdempotencyRedis.layer({ url: redis.url }),
    RateLimitRedis.layer({ url: redis.url }),
    AuditPostgres.layerClient().pipe(Layer.provideMerge(client))
  )
  const subscribed = Layer.effectDiscard(Effect.gen(function*() {
    const registry = yield* Health.Registry
    const running = yield* Subscription.run(
      Subscription.make(
        Channel.bytes("orders"),
        { group: "health", lanes: Lanes.unordered(4), restart: { base: "50 millis", cap: "200 millis" } },
        (message: Message<Uint8Array>) => Effect.log(message.position)
      )
    )
    yield* registry.add(Health.subscription(running, { name: "nats orders", ...common }))
  }))
  const listening = Listener.layer(createServer, HealthRoutes.make({ form: "services", details: "always" }), {
    port: 0,
    host: "127.0.0.1"
  })
  return Layer.build(
    Layer.merge(listening, Health.layerLifetime()).pipe(
      Layer.provide(subscribed),
      Layer.provide(health),
      Layer.provide(outside)
    )
  ).pipe(
    Effect.map((context) => `http://127.0.0.1:${Context.get(context, Listener.Address).port}`),
    Effect.provideService(References.MinimumLogLevel, "None")
  )
}

interface Seen {
  readonly code: number
  readonly live: number
  readonly services: Readonly<
    Record<string, { readonly status: string; readonly latencyMs: number; readonly failure?: string }>
  >
  /** Those that are down, of which server they are. */
  readonly down: ReadonlyArray<string>
}

const look = (base: string): Effect.Effect<Seen> =>
  Effect.promise(async () => {
    const ready = await call(base, "/readyz")
    const live = await call(base, "/livez")
    const services = ready.json()["services"] as Seen["services"]
    const down = Object.entries(services).flatMap(([name, { status }]) => status === "up" ? [] : [name.split(" ")[0]!])
    return { code: ready.status, live: live.status, services, down: [...new Set(down)] }
  })

/** Looks until it is so; the process is alive all the while. */
const until = (base: string, isSo: (seen: Seen) => boolean) =>
  look(base).pipe(
    Effect.tap(({ live }) => Effect.sync(() => expect(live).toBe(200))),
    Effect.repeat({ until: isSo, schedule: Schedule.spaced("50 millis") })
  )

const isWell = ({ code }: Seen) => code === 200

/** A process and those that it has begun. */
const family = (pid: number): ReadonlyArray<number> => [
  pid,
  ...readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter((word) => word !== "").map(Number)
    .flatMap(family)
]

const frozen = <A, E, R>(server: Server, use: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.map(server.pid, (pid) => {
      const all = family(pid!)
      for (const each of all) process.kill(each, "SIGSTOP")
      return all
    }),
    () => use,
    (all) =>
      Effect.sync(() => {
        for (const each of all.toReversed()) process.kill(each, "SIGCONT")
      })
  )

describeServer("Health of a program on real servers", servers, (all) => {
  it.live("W8 H20 X15 readiness follows servers that stop and come back, liveness does not, and latencies are real", () =>
    Effect.gen(function*() {
      const base = yield* program(all())
      const before = yield* until(base, isWell)
      expect(Object.keys(before.services)).toEqual([
        "nats",
        "redis keys",
        "redis limits",
        "postgres audit",
        "postgres client",
        "nats orders"
      ])
      for (const { latencyMs } of Object.values(before.services)) {
        expect(latencyMs).toBeGreaterThan(0)
        expect(latencyMs).toBeLessThan(timeLimit)
      }
      for (const name of ["redis", "postgres", "nats"] as const) {
        const server = all()[name]
        yield* server.stop
        const seen = yield* until(base, ({ down }) => down.length > 0)
        expect([seen.code, ...seen.down]).toEqual([503, name])
        yield* server.start
        yield* until(base, isWell)
      }
    }).pipe(Effect.scoped))

  it.live("W8 readiness answers within its limit though a server hangs, for as long as it does, and goes on when it does", () =>
    Effect.gen(function*() {
      const base = yield* program(all())
      yield* until(base, isWell)
      for (const name of ["redis", "postgres", "nats"] as const) {
        // both answers come while it stands still, so nothing waits for it
        const looked = yield* frozen(
          all()[name],
          Effect.all([until(base, ({ down }) => down.length > 0), look(base)])
        )
        for (const seen of looked) {
          expect([seen.code, seen.live, ...seen.down]).toEqual([503, 200, name])
        }
        const late = Object.values(looked[0].services).filter(({ failure }) => failure === "timeout")
        expect(late.length).toBeGreaterThan(0)
        for (const { latencyMs } of late) expect(latencyMs).toBeGreaterThanOrEqual(timeLimit - 5)
        yield* until(base, isWell)
      }
    }).pipe(Effect.scoped))
})

describe("Health of a program that is ended", () => {
  it.live("W8 by SIGTERM readiness is 503 while the program goes on, and what it then takes is done", () =>
    Effect.gen(function*() {
      const file = new URL("fixtures/healthProgram.ts", import.meta.url).pathname
      const child = yield* Effect.acquireRelease(
        Effect.sync(() => spawn(process.execPath, ["--no-warnings", file], { stdio: ["ignore", "pipe", "inherit"] })),
        (child) => Effect.sync(() => void child.kill("SIGKILL"))
      )
      const lines: Array<string> = []
      const ended = new Promise((resolve) => child.once("exit", resolve))
      createInterface({ input: child.stdout }).on("line", (line) => lines.push(line))
      const started = Effect.sync(() => /^port (\d+)$/.exec(lines[0] ?? "")?.[1])
      const port = yield* Effect.repeat(Effect.delay(started, 20), { until: (found) => found !== undefined })
      const base = `http://127.0.0.1:${port}`
      yield* until(base, isWell)
      child.kill("SIGTERM")
      const seen = yield* until(base, ({ code }) => code === 503)
      expect(seen.services).toMatchObject({ broker: { status: "up" } })
      yield* Effect.promise(() => ended)
      expect(lines).toEqual([`port ${port}`, "handled 0"])
    }).pipe(Effect.scoped))
})
