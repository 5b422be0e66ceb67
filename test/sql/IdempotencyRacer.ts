// A process that races others for keys, and dies now and then: options as JSON, and the file
// that is told what it heard of each key.
import { Idempotency } from "@millrace/core"
import { IdempotencyRedis } from "@millrace/redis"
import { IdempotencyPostgres, IdempotencySqlite } from "@millrace/sql"
import { Effect, type Layer, Redacted } from "effect"
import { openSync, writeSync } from "node:fs"
import type { Racer } from "./IdempotencyRace.ts"

// IdempotencyRace.ts wrote it
const racer = JSON.parse(process.argv[2]!) as Racer

const layer = ({ kind, name, place }: Racer): Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable> => {
  switch (kind) {
    case "SQLite":
      // what is proved is that it outlives processes; the disk's own word would take the race's time
      return IdempotencySqlite.layer({ filename: place, synchronous: "normal" })
    case "PostgreSQL":
      return IdempotencyPostgres.layer({ url: Redacted.make(place), table: name })
    case "Redis":
      return IdempotencyRedis.layer({ url: place, prefix: name })
  }
}

// a file: a pipe that is full would refuse
const log = openSync(process.argv[3]!, "a")
const say = (line: string) => writeSync(log, `${line}\n`)

/** Between two calls of the store: as a power cut would, now and then. */
const mayDie = () => {
  if (Math.random() < racer.dies) process.kill(process.pid, "SIGKILL")
}

const text = new TextEncoder()

const race = (
  store: Idempotency.Store["Service"],
  key: number
): Effect.Effect<void, Idempotency.IdempotencyUnavailable> =>
  Effect.flatMap(store.claim({ key: `key-${key}`, fingerprint: "f", lease: racer.lease }), (claim) => {
    switch (claim._tag) {
      case "Claimed": {
        const { token } = claim
        mayDie()
        say(`claimed ${key} ${token}`)
        mayDie()
        // some take longer than their lease, and complete all the same
        const takes = key < racer.contested && Math.random() < 0.75
          ? racer.lease * (1.5 + Math.random() * 2.5)
          : Math.random() * 4
        return Effect.flatMap(
          Effect.andThen(
            Effect.sleep(takes),
            Effect.suspend(() => store.complete(`key-${key}`, token, text.encode(String(token)), 3_600_000))
          ),
          (isKept) => {
            mayDie()
            say(`${isKept ? "kept" : "refused"} ${key} ${token}`)
            return isKept ? Effect.void : Effect.suspend(() => race(store, key))
          }
        )
      }
      case "Running":
        return Effect.andThen(Effect.sleep(Math.min(claim.left, 50)), Effect.suspend(() => race(store, key)))
      case "Completed":
        return Effect.void
      case "Reused":
        return Effect.die(new Error(`key ${key} is said to be of another request`))
    }
  })

const shuffled = Array.from({ length: racer.keys }, (_, i) => i)
for (let i = shuffled.length - 1; i > racer.contested; i--) {
  const j = racer.contested + Math.floor(Math.random() * (i + 1 - racer.contested))
  ;[shuffled[i], shuffled[j]] = [shuffled[j]!, shuffled[i]!]
}

const all = (store: Idempotency.Store["Service"], keys: ReadonlyArray<number>) =>
  Effect.forEach(keys, (key) =>
    Effect.retry(race(store, key), {
      while: (error) => {
        say(`unavailable ${key} ${error.message}`)
        return true
      }
    }), { concurrency: 64, discard: true })

// the contested keys first: so all meet there, and who is late lives long enough to be overtaken
await Effect.runPromise(
  Effect.flatMap(
    Idempotency.Store,
    (store) =>
      Effect.andThen(all(store, shuffled.slice(0, racer.contested)), all(store, shuffled.slice(racer.contested)))
  ).pipe(Effect.provide(layer(racer)))
)
