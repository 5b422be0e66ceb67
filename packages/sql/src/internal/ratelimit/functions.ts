/**
 * Rate limits as functions of PostgreSQL: one call decides all policies of a message, by the server's clock. Calls take advisory
 * locks in one order, so calls of the same keys follow each other and never deadlock.
 *
 * The arithmetic is that of core's `decide`, and the states are those of `RateLimit.State`, as arrays of bigint.
 */

const algorithms = (t: string): ReadonlyArray<string> => [
  `CREATE FUNCTION ${t}_ahead(state bigint[], at bigint, scale bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN coalesce(state[1], 0) < at THEN 0 ELSE (state[1] - at) * scale + state[2] END
  $$`,
  `CREATE FUNCTION ${t}_counted(state bigint[], at bigint, win bigint) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN at - at % win <= coalesce(state[1], 0) THEN state ELSE ARRAY[
      at - at % win, 0, CASE WHEN at - at % win = state[1] + win THEN state[2] ELSE 0 END
    ] END
  $$`,
  `CREATE FUNCTION ${t}_ends(state bigint[], at bigint) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY(SELECT state[i] FROM generate_series(1, cardinality(state), 2) i WHERE state[i] > at ORDER BY 1)
  $$`,
  `CREATE FUNCTION ${t}_log(state bigint[], at bigint, win bigint) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY(SELECT each FROM unnest(state) each WHERE each > at - win ORDER BY 1)
  $$`,
  // the time at which a cost may be spent, or NULL for never
  `CREATE FUNCTION ${t}_turn(kind text, state bigint[], at bigint, most bigint, win bigint, burst bigint, scale bigint, gap bigint, cost bigint)
  RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
  DECLARE
    over bigint;
    live bigint[];
    share bigint;
  BEGIN
    IF cost > burst THEN RETURN NULL; END IF;
    CASE kind
      WHEN 'gcra', 'tokenBucket' THEN
        over := ${t}_ahead(state, at, scale) + (cost - burst) * gap;
        RETURN CASE WHEN over <= 0 THEN at ELSE at + (over + scale - 1) / scale END;
      WHEN 'fixedWindow' THEN
        IF state = '{}' OR at - at % win > state[1] THEN RETURN at; END IF;
        RETURN CASE WHEN state[2] + cost <= most THEN greatest(at, state[1]) ELSE state[1] + win END;
      WHEN 'slidingCounter' THEN
        live := ${t}_counted(state, at, win);
        over := most - live[2] - cost;
        IF over >= 0 THEN
          share := CASE WHEN live[3] = 0 THEN win ELSE over * win / live[3] END;
          RETURN greatest(at, live[1] + greatest(0, win - share));
        END IF;
        RETURN live[1] + win + greatest(0, win - (most - cost) * win / live[2]);
      WHEN 'slidingLog' THEN
        live := ${t}_log(state, at, win);
        over := cardinality(live) + cost - most;
        RETURN greatest(at, live[cardinality(live)], CASE WHEN over > 0 THEN live[over] + win END);
      WHEN 'concurrency' THEN
        live := ${t}_ends(state, at);
        over := cardinality(live) + cost - most;
        RETURN CASE WHEN over <= 0 THEN at ELSE live[over] END;
    END CASE;
  END $$`,
  `CREATE FUNCTION ${t}_spend(kind text, state bigint[], at bigint, win bigint, scale bigint, gap bigint, cost bigint, turn bigint, own boolean, lease bigint)
  RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE AS $$
  DECLARE
    start bigint := turn - turn % win;
    base bigint := CASE WHEN own THEN at ELSE turn END;
    ticks bigint;
    live bigint[];
  BEGIN
    CASE kind
      WHEN 'gcra', 'tokenBucket' THEN
        ticks := ${t}_ahead(state, base, scale) + cost * gap;
        RETURN ARRAY[base + ticks / scale, ticks % scale];
      WHEN 'fixedWindow' THEN
        RETURN ARRAY[start, cost + CASE WHEN start = state[1] THEN state[2] ELSE 0 END];
      WHEN 'slidingCounter' THEN
        live := ${t}_counted(state, turn, win);
        RETURN ARRAY[live[1], live[2] + cost, live[3]];
      WHEN 'slidingLog' THEN
        RETURN ${t}_log(state, at, win) || array_fill(turn, ARRAY[cost::int]);
      WHEN 'concurrency' THEN
        RETURN ARRAY(
          SELECT state[i + half] FROM generate_series(1, cardinality(state), 2) i, generate_series(0, 1) half
          WHERE state[i] > at ORDER BY i, half
        ) || ARRAY(
          SELECT CASE half WHEN 0 THEN turn + win ELSE lease END
          FROM generate_series(1, cost) i, generate_series(0, 1) half ORDER BY i, half
        );
    END CASE;
  END $$`,
  // the remaining amount, and the milliseconds until the whole limit is available
  `CREATE FUNCTION ${t}_left(kind text, state bigint[], at bigint, most bigint, win bigint, burst bigint, scale bigint, gap bigint)
  RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE AS $$
  DECLARE
    live bigint[];
    ticks bigint;
  BEGIN
    CASE kind
      WHEN 'gcra', 'tokenBucket' THEN
        ticks := ${t}_ahead(state, at, scale);
        RETURN ARRAY[greatest(0, burst * gap - ticks) / gap, (ticks + scale - 1) / scale];
      WHEN 'fixedWindow' THEN
        IF state = '{}' OR at >= state[1] + win THEN RETURN ARRAY[most, 0]; END IF;
        RETURN ARRAY[CASE WHEN at < state[1] THEN 0 ELSE most - state[2] END, state[1] + win - at];
      WHEN 'slidingCounter' THEN
        live := ${t}_counted(state, at, win);
        RETURN ARRAY[
          CASE WHEN at < live[1] THEN 0
            ELSE greatest(0, (most * win - live[3] * (win - (at - live[1]))) / win - live[2]) END,
          CASE WHEN live[2] > 0 THEN live[1] + 2 * win - at WHEN live[3] > 0 THEN live[1] + win - at ELSE 0 END
        ];
      WHEN 'slidingLog' THEN
        live := ${t}_log(state, at, win);
        IF live = '{}' THEN RETURN ARRAY[most, 0]; END IF;
        RETURN ARRAY[
          CASE WHEN live[cardinality(live)] > at THEN 0 ELSE most - cardinality(live) END,
          live[cardinality(live)] + win - at
        ];
      WHEN 'concurrency' THEN
        live := ${t}_ends(state, at);
        RETURN ARRAY[most - cardinality(live), coalesce(live[cardinality(live)] - at, 0)];
    END CASE;
  END $$`
]

// the first bytes of the digest suffice: a collision only causes an extra wait
const locked = `
    FOR number IN SELECT DISTINCT ('x' || left(each->>0, 16))::bit(64)::bigint FROM jsonb_array_elements(charges) each ORDER BY 1
    LOOP PERFORM pg_advisory_xact_lock(number); END LOOP;
    -- after the locks: whoever had them before has told its time
    at := coalesce(given, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint);`

/** The statements that create table and functions. A charge: `[id, algorithm, limit, window, burst, scale, interval, cost]`. */
export const functions = (t: string, name: string): ReadonlyArray<string> => [
  `CREATE TABLE ${t} (id text COLLATE "C" PRIMARY KEY, state bigint[] NOT NULL, ends_at bigint NOT NULL)`,
  `CREATE INDEX ${name}_end ON ${t} (ends_at)`,
  ...algorithms(t),
  `CREATE FUNCTION ${t}_take(given bigint, within bigint, lease bigint, charges jsonb) RETURNS bigint[] LANGUAGE plpgsql AS $$
  DECLARE
    number bigint;
    at bigint;
    c jsonb;
    own bigint[];
    -- arrays of arrays of different lengths there are none, so they are kept as text
    states text[] := '{}';
    turns bigint[] := '{}';
    turn bigint := 0;
    refused bigint := 0;
    placed bigint := 0;
    verdicts bigint[] := '{}';
    rest bigint[];
    i int := 0;
  BEGIN
    -- counts need not be on the disk: a server that crashes loses less than a second of them
    PERFORM set_config('synchronous_commit', 'off', true);
    ${locked}
    turn := at;
    FOR c IN SELECT jsonb_array_elements(charges) LOOP
      own := coalesce((SELECT state FROM ${t} WHERE id = c->>0), '{}');
      states := states || own::text;
      number := ${t}_turn(c->>1, own, at, (c->>2)::bigint, (c->>3)::bigint, (c->>4)::bigint, (c->>5)::bigint, (c->>6)::bigint, (c->>7)::bigint);
      turns := turns || number;
      IF c->>1 = 'concurrency' THEN placed := 1; END IF;
      IF number IS NULL THEN
        refused := -1;
      ELSE
        turn := greatest(turn, number);
        IF refused >= 0 THEN
          refused := greatest(refused, CASE WHEN c->>1 = 'concurrency' THEN number - at ELSE number - at - within END);
        END IF;
      END IF;
    END LOOP;
    FOR c IN SELECT jsonb_array_elements(charges) LOOP
      i := i + 1;
      own := states[i]::bigint[];
      IF refused = 0 AND (c->>7)::bigint > 0 THEN
        own := ${t}_spend(c->>1, own, at, (c->>3)::bigint, (c->>5)::bigint, (c->>6)::bigint, (c->>7)::bigint, turn, turns[i] = turn, lease);
        rest := ${t}_left(c->>1, own, at, (c->>2)::bigint, (c->>3)::bigint, (c->>4)::bigint, (c->>5)::bigint, (c->>6)::bigint);
        INSERT INTO ${t} AS kept VALUES (c->>0, own, at + rest[2])
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, ends_at = excluded.ends_at;
      ELSE
        rest := ${t}_left(c->>1, own, at, (c->>2)::bigint, (c->>3)::bigint, (c->>4)::bigint, (c->>5)::bigint, (c->>6)::bigint);
      END IF;
      verdicts := verdicts || coalesce(turns[i] - at, -1) || rest;
    END LOOP;
    IF refused <> 0 THEN RETURN ARRAY[0, refused, at, 0] || verdicts; END IF;
    RETURN ARRAY[1, turn - at, at, placed] || verdicts;
  END $$`,
  // renews or releases places; answers whether all were held
  `CREATE FUNCTION ${t}_hold(given bigint, lease_ bigint, keeps boolean, charges jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
  DECLARE
    number bigint;
    at bigint;
    c jsonb;
    own bigint[];
    next bigint[];
    held boolean := true;
  BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    ${locked}
    FOR c IN SELECT jsonb_array_elements(charges) LOOP
      own := coalesce((SELECT state FROM ${t} WHERE id = c->>0), '{}');
      next := ARRAY(
        SELECT CASE WHEN half = 0 AND keeps AND own[i + 1] = lease_ AND own[i] > at THEN at + (c->>3)::bigint ELSE own[i + half] END
        FROM generate_series(1, cardinality(own), 2) i, generate_series(0, 1) half
        WHERE keeps OR own[i + 1] <> lease_ ORDER BY i, half
      );
      IF NOT EXISTS (
        SELECT 1 FROM generate_series(1, cardinality(own), 2) i WHERE own[i + 1] = lease_ AND (own[i] > at OR NOT keeps)
      ) THEN
        held := false;
      ELSE
        UPDATE ${t} SET state = next, ends_at = coalesce((SELECT max(next[i]) FROM generate_series(1, cardinality(next), 2) i), at)
        WHERE id = c->>0;
      END IF;
    END LOOP;
    RETURN held;
  END $$`
]
