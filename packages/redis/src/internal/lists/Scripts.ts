/**
 * What must happen in one piece, as scripts.
 *
 * | key       | holds                                                                                           |
 * | --------- | ----------------------------------------------------------------------------------------------- |
 * | channel   | a list: what waits, oldest first                                                                |
 * | `first`   | a list: what goes before it, moved there by blocked reads, which do no more than wake a consumer |
 * | `alive`   | a sorted set: consumers, each with the time at which it is taken for dead                         |
 * | `group`   | the name of the one group that takes from the channel                                           |
 * | `taken:…` | a hash for each consumer: what it has and has not settled, by number                            |
 *
 * The hashes of other consumers are named in scripts only; they share the channel's hash tag.
 */
import { script } from "../client/Client.ts"

const clock = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

const living = `
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return redis.error_reply('FENCED This consumer gave no sign of life, and others have taken over what it had.')
end
`

const giving = `
-- Puts back all that a consumer has, before what waits and in its order.
local function giveBack(taken, first)
  local numbers = redis.call('HKEYS', taken)
  table.sort(numbers, function(a, b) return tonumber(a) > tonumber(b) end)
  for _, number in ipairs(numbers) do redis.call('LPUSH', first, redis.call('HGET', taken, number)) end
  redis.call('DEL', taken)
  return #numbers
end
`

/**
 * Joins a group, or answers the name of the one that the channel belongs to. A new group that wants nothing of what waits is
 * answered 0 where something does.
 */
export const join = script(`
${clock}
local group = redis.call('GET', KEYS[2])
if group and group ~= ARGV[2] then return group end
local kind = redis.call('TYPE', KEYS[3]).ok
if kind ~= 'none' and kind ~= 'list' then return redis.error_reply('WRONGTYPE the channel holds no list') end
if not group and ARGV[4] == 'latest' and redis.call('LLEN', KEYS[3]) + redis.call('LLEN', KEYS[4]) > 0 then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
return 1
`)

/** A sign of life. */
export const beat = script(`
${clock}
${living}
return redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
`)

/** Takes messages, numbered from here on: first what consumers had that are dead. */
export const take = script(`
${giving}
${clock}
${living}
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 10)) do
  if dead ~= ARGV[1] then
    giveBack(ARGV[5] .. dead, KEYS[2])
    redis.call('ZREM', KEYS[1], dead)
  end
end
local found, bytes, number = {}, 0, tonumber(ARGV[2])
while #found < tonumber(ARGV[3]) and (bytes == 0 or bytes < tonumber(ARGV[4])) do
  local value = redis.call('LPOP', KEYS[2]) or redis.call('LPOP', KEYS[3])
  if not value then break end
  redis.call('HSET', KEYS[4], number, value)
  number = number + 1
  bytes = bytes + #value
  found[#found + 1] = value
end
return found
`)

/** Removes what is done and puts back what is not: numbers of the first kind, as many as said, then those of the second. */
export const settle = script(`
${living}
local done = tonumber(ARGV[2])
for i = 3, 2 + done, 1000 do redis.call('HDEL', KEYS[2], unpack(ARGV, i, math.min(i + 999, 2 + done))) end
local back = {unpack(ARGV, 3 + done)}
table.sort(back, function(a, b) return tonumber(a) > tonumber(b) end)
for _, number in ipairs(back) do
  local value = redis.call('HGET', KEYS[2], number)
  if value then
    redis.call('LPUSH', KEYS[3], value)
    redis.call('HDEL', KEYS[2], number)
  end
end
return 1
`)

/** Puts back all that is left, and leaves. */
export const leave = script(`
${giving}
giveBack(KEYS[2], KEYS[3])
return redis.call('ZREM', KEYS[1], ARGV[1])
`)

/** Keeps the keys of a temporary list from expiring for so many milliseconds. */
export const keep = script(`
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end
for _, consumer in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('PEXPIRE', ARGV[2] .. consumer, ARGV[1]) end
return 1
`)

/** Ends the group of a list that has no consumer left, and removes the messages of a temporary list. */
export const finish = script(`
if redis.call('ZCARD', KEYS[1]) > 0 then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[1] == '1' then redis.call('DEL', KEYS[3], KEYS[4]) end
return 1
`)

/** What waits, what goes before it, and what consumers have. Nothing where the channel belongs to another group. */
export const lag = script(`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {} end
local sum = redis.call('LLEN', KEYS[3]) + redis.call('LLEN', KEYS[4])
for _, consumer in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do sum = sum + redis.call('HLEN', ARGV[2] .. consumer) end
return {sum}
`)
