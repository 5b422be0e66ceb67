/**
 * Scripts for rate limits: one call decides all policies of a message atomically, by the server's clock.
 *
 * | algorithm                       | a key holds                                                                        |
 * | ------------------------------- | ---------------------------------------------------------------------------------- |
 * | `gcra`, `tokenBucket`           | text: the arrival time in milliseconds, and ticks of the next                       |
 * | `fixedWindow`, `slidingCounter` | text: the start of a window, the count in it, and the count before it               |
 * | `slidingLog`                    | a list: the time of each message that passed, as often as it cost                   |
 * | `concurrency`                   | a sorted set: places by lease, each with the time at which it ends                  |
 *
 * The arithmetic is that of core's `decide`, on integers below 2^53, where numbers of Lua are exact.
 */
import { script } from "../client/Client.ts"

// ARGV[1] is the time, or empty for the server's clock; another clock may run slower than keys expire, hence the slack
const clock = `
local now = tonumber(ARGV[1])
local slack = 60000
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  slack = 0
end
local function text(number) return string.format('%.0f', number) end
local function keep(key, millis) redis.call('PEXPIRE', key, text(math.max(1, millis) + slack)) end
local function numbers(key)
  local found = {}
  for each in string.gmatch(redis.call('GET', key) or '', '%d+') do found[#found + 1] = tonumber(each) end
  return found
end
local function write(key, millis, values)
  for i, value in ipairs(values) do values[i] = text(value) end
  redis.call('SET', key, table.concat(values, ' '), 'PX', text(math.max(1, millis) + slack))
end
`

const bucket = `
local function ahead(c, time) return math.max(0, ((c.state[1] or 0) - time) * c.scale + (c.state[2] or 0)) end
local function fill(c, from, ticks)
  c.state = {from + math.floor(ticks / c.scale), ticks % c.scale}
  write(c.key, c.state[1] - now + 1, {c.state[1], c.state[2]})
end
local bucket = {
  read = function(c) c.state = numbers(c.key) end,
  turn = function(c)
    local over = ahead(c, now) + (c.cost - c.burst) * c.interval
    return over <= 0 and now or now + math.ceil(over / c.scale)
  end,
  spend = function(c, turn, own)
    local from = own and now or turn
    fill(c, from, ahead(c, from) + c.cost * c.interval)
  end,
  remaining = function(c) return math.max(0, math.floor((c.burst * c.interval - ahead(c, now)) / c.interval)) end,
  reset = function(c) return math.ceil(ahead(c, now) / c.scale) end
}
`

const rules = `
${bucket}
local fixedWindow = {
  read = function(c)
    local found = numbers(c.key)
    c.start, c.count = found[1] or 0, found[2] or 0
  end,
  turn = function(c)
    if now - now % c.window > c.start or c.count + c.cost <= c.limit then return math.max(now, c.start) end
    return c.start + c.window
  end,
  spend = function(c, turn)
    local start = turn - turn % c.window
    c.count = (start == c.start and c.count or 0) + c.cost
    c.start = start
    write(c.key, start + c.window - now, {start, c.count})
  end,
  remaining = function(c)
    if now < c.start then return 0 end
    return now - now % c.window > c.start and c.limit or c.limit - c.count
  end,
  reset = function(c) return c.count == 0 and 0 or math.max(0, c.start + c.window - now) end
}

local function at(c, time)
  local start = time - time % c.window
  if start > c.start then
    c.previous = start == c.start + c.window and c.current or 0
    c.start, c.current = start, 0
  end
end
local slidingCounter = {
  read = function(c)
    local found = numbers(c.key)
    c.start, c.current, c.previous = found[1] or 0, found[2] or 0, found[3] or 0
    at(c, now)
  end,
  turn = function(c)
    local free = c.limit - c.current - c.cost
    if free >= 0 then
      local share = c.previous == 0 and c.window or math.floor(free * c.window / c.previous)
      return math.max(now, c.start + math.max(0, c.window - share))
    end
    return c.start + c.window + math.max(0, c.window - math.floor((c.limit - c.cost) * c.window / c.current))
  end,
  spend = function(c, turn)
    at(c, turn)
    c.current = c.current + c.cost
    write(c.key, c.start + 2 * c.window - now, {c.start, c.current, c.previous})
  end,
  remaining = function(c)
    if now < c.start then return 0 end
    local left = c.window - (now - c.start)
    return math.max(0, math.floor((c.limit * c.window - c.previous * left) / c.window) - c.current)
  end,
  reset = function(c)
    return c.current > 0 and c.start + 2 * c.window - now or c.previous > 0 and c.start + c.window - now or 0
  end
}

local slidingLog = {
  read = function(c)
    local oldest = redis.call('LINDEX', c.key, 0)
    while oldest and tonumber(oldest) <= now - c.window do
      redis.call('LPOP', c.key)
      oldest = redis.call('LINDEX', c.key, 0)
    end
    c.count = redis.call('LLEN', c.key)
    c.last = tonumber(redis.call('LINDEX', c.key, -1) or 0)
  end,
  turn = function(c)
    local over, last = c.count + c.cost - c.limit, math.max(now, c.last)
    if over <= 0 then return last end
    return math.max(last, redis.call('LINDEX', c.key, over - 1) + c.window)
  end,
  spend = function(c, turn)
    local time = text(turn)
    for from = 1, c.cost, 1000 do
      local some = {}
      for i = from, math.min(c.cost, from + 999) do some[#some + 1] = time end
      redis.call('RPUSH', c.key, unpack(some))
    end
    keep(c.key, turn + c.window - now)
    c.count, c.last = c.count + c.cost, turn
  end,
  remaining = function(c) return c.last > now and 0 or c.limit - c.count end,
  reset = function(c) return c.count == 0 and 0 or math.max(0, c.last + c.window - now) end
}

local concurrency = {
  read = function(c)
    redis.call('ZREMRANGEBYSCORE', c.key, '-inf', text(now))
    c.count = redis.call('ZCARD', c.key)
  end,
  turn = function(c)
    local over = c.count + c.cost - c.limit
    return over <= 0 and now or tonumber(redis.call('ZRANGE', c.key, over - 1, over - 1, 'WITHSCORES')[2])
  end,
  spend = function(c, turn)
    for i = 1, c.cost do redis.call('ZADD', c.key, text(turn + c.window), ARGV[3] .. ':' .. i) end
    c.count = c.count + c.cost
    keep(c.key, redis.call('ZRANGE', c.key, -1, -1, 'WITHSCORES')[2] - now)
  end,
  remaining = function(c) return math.max(0, c.limit - c.count) end,
  reset = function(c) return (redis.call('ZRANGE', c.key, -1, -1, 'WITHSCORES')[2] or now) - now end
}

local rules = {
  gcra = bucket, tokenBucket = bucket, fixedWindow = fixedWindow, slidingCounter = slidingCounter, slidingLog = slidingLog,
  concurrency = concurrency
}
`

const reading = `
local function charge(i, from)
  local c = {key = KEYS[i], kind = ARGV[from]}
  for j, name in ipairs({'limit', 'window', 'burst', 'scale', 'interval', 'cost'}) do c[name] = tonumber(ARGV[from + j]) end
  return c
end
`

/**
 * Decides on a message: time, `within`, lease, and seven arguments for each key. Answers whether the message is admitted, the
 * wait, the time, whether places were taken, and for each key wait, remaining, reset; -1 is never.
 */
export const take = script(`
${clock}
${rules}
${reading}
local within = tonumber(ARGV[2])
local charges, wait, refused, placed = {}, 0, 0, 0
for i = 1, #KEYS do
  local c = charge(i, 7 * i - 3)
  local rule = rules[c.kind]
  rule.read(c)
  c.wait = c.cost > c.burst and math.huge or rule.turn(c) - now
  wait = math.max(wait, c.wait)
  if c.kind == 'concurrency' then
    placed = 1
    refused = math.max(refused, c.wait)
  else
    refused = math.max(refused, c.wait - within)
  end
  charges[i] = c
end
local admitted = refused <= 0
local function shown(millis) return millis == math.huge and -1 or millis end
local reply = {admitted and 1 or 0, shown(admitted and wait or refused), now, admitted and placed or 0}
for _, c in ipairs(charges) do
  local rule = rules[c.kind]
  if admitted and c.cost > 0 then rule.spend(c, now + wait, c.wait == wait) end
  reply[#reply + 1] = shown(c.wait)
  reply[#reply + 1] = rule.remaining(c)
  reply[#reply + 1] = rule.reset(c)
end
return reply
`)

/** Renews places: time, lease, and for each key its window and number of places. Answers 1 if all of them were still held. */
export const renew = script(`
${clock}
local held = 1
for i, key in ipairs(KEYS) do
  local ends = redis.call('ZSCORE', key, ARGV[2] .. ':1')
  if ends and tonumber(ends) > now then
    for place = 1, ARGV[2 * i + 2] do redis.call('ZADD', key, text(now + ARGV[2 * i + 1]), ARGV[2] .. ':' .. place) end
    keep(key, redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2] - now)
  else
    held = 0
  end
end
return held
`)

/** Returns places: lease, and for each key the number of places. */
export const release = script(`
for i, key in ipairs(KEYS) do
  for place = 1, ARGV[i + 1] do redis.call('ZREM', key, ARGV[1] .. ':' .. place) end
end
return 1
`)

/** Reserves tokens of a bucket: time, seven arguments, whose cost is the least useful number of tokens, and the most tokens. */
export const reserve = script(`
${clock}
${bucket}
${reading}
local c = charge(1, 2)
bucket.read(c)
local wait = bucket.turn(c) - now
local granted = 0
if wait == 0 then
  granted = math.max(c.cost, math.min(tonumber(ARGV[9]), bucket.remaining(c)))
  fill(c, now, ahead(c, now) + granted * c.interval)
end
return {granted, wait, now, bucket.remaining(c), bucket.reset(c)}
`)

/** Returns tokens: time, and seven arguments, whose cost is the number of tokens. */
export const giveBack = script(`
${clock}
${bucket}
${reading}
local c = charge(1, 2)
bucket.read(c)
local left = ahead(c, now) - c.cost * c.interval
if left > 0 then fill(c, now, left) else redis.call('DEL', c.key) end
return 1
`)
