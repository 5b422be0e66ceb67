/**
 * The thread of the SQLite store of idempotency keys: owns the file, and commits a group of operations at a time.
 */
import { inTransaction, serve } from "../sqlite/file.ts"
import { kinds, type Reply, type Request, tags } from "./protocol.ts"

/**
 * The token is the row id: AUTOINCREMENT never reuses an id, even of a deleted row, and counts for all
 * keys. A claim without a result is running.
 */
const steps: ReadonlyArray<string> = [
  `CREATE TABLE idempotency (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    expires_at REAL NOT NULL,
    result BLOB
  ) STRICT;
  CREATE INDEX idempotency_expiry ON idempotency (expires_at);`
]

interface Row {
  readonly token: number
  readonly fingerprint: string
  readonly expires_at: number
  readonly result: Uint8Array | null
}

serve<Request>({ name: "idempotency", steps }, (database) => {
  const find = database.prepare("SELECT token, fingerprint, expires_at, result FROM idempotency WHERE key = ?")
  const insert = database.prepare("INSERT INTO idempotency (key, fingerprint, expires_at) VALUES (?, ?, ?)")
  const remove = database.prepare("DELETE FROM idempotency WHERE token = ?")
  // a running claim of this token
  const held = "WHERE token = ? AND key = ? AND result IS NULL"
  const complete = database.prepare(`UPDATE idempotency SET result = ?, expires_at = ? ${held} AND expires_at > ?`)
  const extend = database.prepare(`UPDATE idempotency SET expires_at = ? ${held} AND expires_at > ?`)
  const release = database.prepare(`DELETE FROM idempotency ${held}`)
  const prune = database.prepare(
    "DELETE FROM idempotency WHERE token IN (SELECT token FROM idempotency WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"
  )

  // all processes of the machine share this clock, and rows outlive them: a monotonic clock restarts with the machine
  // @effect-diagnostics-next-line globalDate:off
  const clock = () => Date.now()

  const ask = (request: Extract<Request, { readonly operation: "ask" }>): Omit<Reply, "id"> => {
    const { numbers, results, texts } = request
    const count = texts.length / 2
    const answers = new Float64Array(count * 2)
    const found: Array<Uint8Array> = []
    let given = 0
    inTransaction(database, () => {
      // read the time after taking the lock, which may take long
      const now = clock()
      for (let i = 0; i < count; i++) {
        const [kind, token, millis] = [numbers[i * 3]!, numbers[i * 3 + 1]!, numbers[i * 3 + 2]!]
        const [key, fingerprint] = [texts[i * 2]!, texts[i * 2 + 1]!]
        const answer = (first: number, second = 0): void => {
          answers[i * 2] = first
          answers[i * 2 + 1] = second
        }
        switch (kind) {
          case kinds.claim: {
            // the columns are those of the schema above
            const row = find.get(key) as Row | undefined
            if (row === undefined || row.expires_at <= now) {
              if (row !== undefined) remove.run(row.token)
              answer(tags.Claimed, Number(insert.run(key, fingerprint, now + millis).lastInsertRowid))
            } else if (row.fingerprint !== fingerprint) answer(tags.Reused)
            else if (row.result === null) answer(tags.Running, row.expires_at - now)
            else {
              answer(tags.Completed)
              found.push(row.result)
            }
            break
          }
          case kinds.complete:
            answer(Number(complete.run(results[given++]!, now + millis, token, key, now).changes))
            break
          case kinds.extend:
            answer(Number(extend.run(now + millis, token, key, now).changes))
            break
          case kinds.release:
            answer(Number(release.run(token, key).changes))
        }
      }
    })
    return { numbers: answers, results: found }
  }

  return (request) =>
    request.operation === "ask" ? ask(request) : { removed: Number(prune.run(clock(), request.most).changes) }
})
