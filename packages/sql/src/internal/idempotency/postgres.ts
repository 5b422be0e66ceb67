/**
 * The table of idempotency keys in PostgreSQL, and the function that runs a group of operations in one call and one commit.
 *
 * The function works in the order of the keys, so groups never deadlock. It reads the time after locking a
 * row, since locking may take long: `clock_timestamp()` moves within a statement. It draws a token after locking the row,
 * or after finding it missing, so tokens of one key grow.
 */
import { PgTypes } from "@effect/sql-pg"
import type { Idempotency } from "@millrace/core"
import { Effect, Result } from "effect"
import type { Schema } from "../database/migrate.ts"
import { nameOf } from "../database/table.ts"
import { storable } from "./shared.ts"

/** The steps of the schema, oldest first. A changed function gets a new name: programs of both versions run for a while. */
export const schema = (table: string): Schema => ({
  table,
  steps: [
    (sql) =>
      Effect.forEach([
        `CREATE SEQUENCE ${table}_token`,
        `CREATE TABLE ${table} (key text COLLATE "C" PRIMARY KEY, fingerprint text NOT NULL, owner text NOT NULL, `
        + "token bigint NOT NULL, expires_at timestamptz NOT NULL, result bytea)",
        `CREATE INDEX ${nameOf(table)}_expiry ON ${table} (expires_at)`,
        ask(table)
      ], (statement) =>
        sql.unsafe(statement), { discard: true })
  ]
})

const ask = (table: string): string => `
CREATE FUNCTION ${table}_ask(
  kinds text[], keys text[], fingerprints text[], owners text[], tokens float8[], millis float8[], results bytea[]
) RETURNS TABLE (place int, answer text, number float8, bytes bytea) LANGUAGE plpgsql AS $$
DECLARE
  asked record;
  found_row ${table}%ROWTYPE;
  lasts interval;
  drawn bigint;
BEGIN
  FOR asked IN
    SELECT * FROM unnest(kinds, keys, fingerprints, owners, tokens, millis, results) WITH ORDINALITY
      AS each(kind, k, f, o, t, ms, r, n) ORDER BY k COLLATE "C", n
  LOOP
    place := asked.n;
    number := 0;
    bytes := NULL;
    lasts := asked.ms * interval '1 millisecond';
    IF asked.kind = 'claim' THEN
      LOOP
        INSERT INTO ${table} (key, fingerprint, owner, token, expires_at)
          VALUES (asked.k, asked.f, asked.o, nextval('${table}_token'), clock_timestamp() + lasts)
          ON CONFLICT (key) DO NOTHING RETURNING token INTO drawn;
        IF FOUND THEN
          answer := 'Claimed';
          number := drawn;
          EXIT;
        END IF;
        SELECT * INTO found_row FROM ${table} WHERE key = asked.k FOR UPDATE;
        -- or it was removed in between, and is asked for again
        IF FOUND THEN
          IF found_row.expires_at <= clock_timestamp() THEN
            UPDATE ${table} SET fingerprint = asked.f, owner = asked.o, token = nextval('${table}_token'),
              expires_at = clock_timestamp() + lasts, result = NULL WHERE key = asked.k RETURNING token INTO drawn;
            answer := 'Claimed';
            number := drawn;
          ELSIF found_row.fingerprint <> asked.f THEN
            answer := 'Reused';
          ELSIF found_row.result IS NOT NULL THEN
            answer := 'Completed';
            bytes := found_row.result;
          ELSIF found_row.owner = asked.o THEN
            -- its answer was lost on the way
            answer := 'Claimed';
            number := found_row.token;
          ELSE
            answer := 'Running';
            number := extract(epoch FROM found_row.expires_at - clock_timestamp()) * 1000;
          END IF;
          EXIT;
        END IF;
      END LOOP;
    ELSE
      IF asked.kind = 'complete' THEN
        UPDATE ${table} SET result = asked.r, expires_at = clock_timestamp() + lasts
          WHERE key = asked.k AND token = asked.t AND result IS NULL AND expires_at > clock_timestamp();
        -- or it was completed by this claim, and the answer was lost on the way
        IF NOT FOUND THEN
          PERFORM 1 FROM ${table}
            WHERE key = asked.k AND token = asked.t AND result = asked.r AND expires_at > clock_timestamp();
        END IF;
      ELSIF asked.kind = 'extend' THEN
        UPDATE ${table} SET expires_at = clock_timestamp() + lasts
          WHERE key = asked.k AND token = asked.t AND result IS NULL AND expires_at > clock_timestamp();
      ELSE
        -- the row stays for a while: what waits for it must see its token
        UPDATE ${table} SET expires_at = least(expires_at, clock_timestamp())
          WHERE key = asked.k AND token = asked.t AND result IS NULL;
      END IF;
      answer := CASE WHEN FOUND THEN 'true' ELSE 'false' END;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$`

/** The statement of a group binds one array for each column, so it is the same for every size of group and stays prepared. */
export const statement = (table: string): string =>
  `SELECT place, answer, number, bytes FROM ${table}_ask($1, $2, $3, $4, $5, $6, $7)`

/** The parameters of the statement; `owners` are unique names of claims. */
export const parameters = (
  operations: ReadonlyArray<Idempotency.Operation>,
  owners: ReadonlyArray<string>
): ReadonlyArray<PgTypes.Parameter> => {
  const array = (of: ReadonlyArray<unknown>, type: "text" | "float8" | "bytea") =>
    // the types are built in
    Result.getOrThrow(PgTypes.array(of, PgTypes.OID[type]))
  return [
    array(operations.map(({ kind }) => kind), "text"),
    array(operations.map(({ key }) => storable(key)), "text"),
    array(operations.map(({ fingerprint }) => storable(fingerprint)), "text"),
    array(owners, "text"),
    array(operations.map(({ token }) => token), "float8"),
    // 3,000 years: a timestamp of PostgreSQL has an end
    array(operations.map(({ millis }) => Math.min(millis, 1e14)), "float8"),
    array(operations.map(({ kind, result }) => kind === "complete" ? result : null), "bytea")
  ]
}

/** A row of the statement. */
export interface Row {
  readonly place: number
  readonly answer: "Claimed" | "Completed" | "Running" | "Reused" | "true" | "false"
  readonly number: number
  readonly bytes: Uint8Array | null
}

/** Passes the rows' answers to the operations of a group. */
export const answer = (operations: ReadonlyArray<Idempotency.Operation>, rows: ReadonlyArray<Row>): void => {
  for (const { answer, bytes, number, place } of rows) {
    const operation = operations[place - 1]!
    switch (answer) {
      case "Claimed":
        operation.claimed({ _tag: "Claimed", token: number })
        break
      case "Completed":
        operation.claimed({ _tag: "Completed", result: bytes! })
        break
      case "Running":
        operation.claimed({ _tag: "Running", left: number })
        break
      case "Reused":
        operation.claimed({ _tag: "Reused" })
        break
      default:
        operation.held(answer === "true")
    }
  }
}

/**
 * Removes rows that ended a minute ago or earlier: a call that waits for a row still finds its token. Answers their number, as
 * `n`. The statement's time is the same for all rows, so the index finds them.
 */
export const prune = (table: string): string =>
  `WITH gone AS (DELETE FROM ${table} WHERE key IN (SELECT key FROM ${table} `
  + "WHERE expires_at < statement_timestamp() - interval '1 minute' ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED) "
  + "RETURNING 1) SELECT count(*)::float8 AS n FROM gone"
