/**
 * Runs the operations of a task table atomically, one script each, by the server's clock.
 *
 * | key              | holds                                                                                     |
 * | ---------------- | ----------------------------------------------------------------------------------------- |
 * | `prefix:t:ID`    | a hash: version `v`, state `s`, queue `q`, time of creation `c`, content `d`, payload `p` |
 * | `prefix:u:KEY`   | the id that holds a unique key                                                            |
 * | `prefix:due`     | a sorted set of ids by the Unix time in milliseconds at which they are due                 |
 * | `prefix:q:QUEUE` | a sorted set of ids, scored by the time of their removal, or infinity                      |
 * | `prefix:i:QUEUE` | a sorted set of the same ids in the order of their bytes                                   |
 * | `prefix:events`  | a Pub/Sub channel: the id of each row that tells its watchers                              |
 */
import { script } from "../client/Client.ts"

const clock = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

/**
 * Keys: row, due, both indexes, and the unique key if there is one. Arguments: id, queue, content, payload, kind and value of the due
 * time, milliseconds of the unique key (0: no limit). Answers 1, 0 if the id exists, or the id that holds the unique key.
 */
export const insert = script(
  `
${clock}
local id = ARGV[1]
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if KEYS[5] then
  local holder
  if ARGV[7] == '0' then holder = redis.call('SET', KEYS[5], id, 'NX', 'GET')
  else holder = redis.call('SET', KEYS[5], id, 'NX', 'GET', 'PX', ARGV[7]) end
  if holder then return holder end
end
redis.call('HSET', KEYS[1], 'v', 1, 's', 'pending', 'q', ARGV[2], 'c', now, 'd', ARGV[3], 'p', ARGV[4])
if ARGV[5] == 'after' then redis.call('ZADD', KEYS[2], now + ARGV[6], id)
elseif ARGV[5] == 'at' then redis.call('ZADD', KEYS[2], ARGV[6], id) end
redis.call('ZADD', KEYS[3], 'inf', id)
redis.call('ZADD', KEYS[4], 0, id)
-- removes a few ids whose rows have expired
local gone = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 8)
if #gone > 0 then
  redis.call('ZREM', KEYS[3], unpack(gone))
  redis.call('ZREM', KEYS[4], unpack(gone))
end
return 1
`,
  "refused"
)

/** Keys: row. Answers the time, and the fields of the row except its payload, null if there is none. */
export const load = script(`
${clock}
return {now, redis.call('HMGET', KEYS[1], 'v', 's', 'q', 'c', 'd')}
`)

/**
 * Keys: row, due, index, events, and the unique key if it is released. Arguments: id, version, state, content, whether the row
 * is due, milliseconds until its removal (empty: never), whether it tells. Answers 1 if the row had the version.
 */
export const save = script(`
local id = ARGV[1]
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'v', ARGV[2] + 1, 's', ARGV[3], 'd', ARGV[4])
if ARGV[5] == '1' then
  ${clock}
  redis.call('ZADD', KEYS[2], now, id)
else redis.call('ZREM', KEYS[2], id) end
if ARGV[6] == '' then
  if redis.call('PERSIST', KEYS[1]) == 1 then redis.call('ZADD', KEYS[3], 'inf', id) end
else
  ${clock}
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
  redis.call('ZADD', KEYS[3], now + ARGV[6], id)
end
if KEYS[5] and redis.call('GET', KEYS[5]) == id then redis.call('DEL', KEYS[5]) end
if ARGV[7] == '1' then redis.call('PUBLISH', KEYS[4], id) end
return 1
`)

/**
 * Keys: due. Arguments: limit, milliseconds after which the rows are due again, prefix of the rows. Answers the milliseconds
 * until the next row is due (-1: none), then id, queue, content and payload of each row.
 */
export const due = script(`
${clock}
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local found = {-1}
for _, id in ipairs(ids) do
  local row = redis.call('HMGET', ARGV[3] .. id, 'q', 'd', 'p')
  if row[1] then
    redis.call('ZADD', KEYS[1], now + ARGV[2], id)
    found[#found + 1] = id
    for i = 1, 3 do found[#found + 1] = row[i] end
  else redis.call('ZREM', KEYS[1], id) end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then found[1] = math.max(0, math.floor(first[2] - now)) end
return found
`)

/**
 * Keys: row, due, both indexes, events, and the unique key if there is one. Arguments: id, version. Answers 1 if the row had
 * the version.
 */
export const remove = script(`
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
for i = 2, 4 do redis.call('ZREM', KEYS[i], ARGV[1]) end
if KEYS[6] and redis.call('GET', KEYS[6]) == ARGV[1] then redis.call('DEL', KEYS[6]) end
redis.call('PUBLISH', KEYS[5], ARGV[1])
return 1
`)

/**
 * Keys: the index in the order of ids. Arguments: the least id as a bound of ZRANGEBYLEX, limit, prefix of the rows. Answers
 * id, version, state, time of creation and content of each row; rows that have expired have nulls.
 */
export const scan = script(`
local ids = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local found = {}
for _, id in ipairs(ids) do
  local row = redis.call('HMGET', ARGV[3] .. id, 'v', 's', 'c', 'd')
  found[#found + 1] = id
  for i = 1, 4 do found[#found + 1] = row[i] end
end
return found
`)
