/**
 * Scripts of the lists driver; each runs atomically.
 *
 * | key       | holds                                                                                           |
 * | --------- | ----------------------------------------------------------------------------------------------- |
 * | channel   | a list: waiting messages, oldest first                                                          |
 * | `first`   | a list: messages that go before those; blocked reads move messages here only to wake a consumer |
 * | `alive`   | a sorted set: consumers, each with the time at which it counts as dead                          |
 * | `group`   | the name of the one group that takes from the channel                                           |
 * | `taken:…` | a hash for each consumer: its unsettled messages, by number                                     |
 *
 * Only scripts name the hashes of other consumers, which are not passed as keys; they share the channel's hash tag.
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
 * Joins the group and answers 1, or answers the name of the group that the channel belongs to. Answers 0 if a new group starts
 * at `latest` but the list has messages.
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

/** Sends a heartbeat. */
export const beat = script(`
${clock}
${living}
return redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
`)

/** Takes messages and numbers them from the given number on; first returns the messages of dead consumers to the list. */
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

/** Removes done messages and puts the others back: the count of done numbers, those numbers, then the numbers to put back. */
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

/** Puts back the consumer's remaining messages and removes the consumer. */
export const leave = script(`
${giving}
giveBack(KEYS[2], KEYS[3])
return redis.call('ZREM', KEYS[1], ARGV[1])
`)

/** Extends the expiry of the keys of a temporary list to the given milliseconds. */
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

/** Counts waiting messages, those in `first`, and unsettled ones. Empty if the channel belongs to another group. */
export const lag = script(`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {} end
local sum = redis.call('LLEN', KEYS[3]) + redis.call('LLEN', KEYS[4])
for _, consumer in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do sum = sum + redis.call('HLEN', ARGV[2] .. consumer) end
return {sum}
`)
