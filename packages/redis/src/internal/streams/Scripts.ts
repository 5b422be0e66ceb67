/**
 * Scripts of the streams driver; each runs atomically and gets every key it touches, all of one hash tag.
 *
 * A script can pass only some thousand values to one call (`unpack`), so ids go in pieces.
 */
import { script } from "../client/Client.ts"

const pieces = `
local function each(ids, run)
  for i = 1, #ids, 1000 do run({unpack(ids, i, math.min(i + 999, #ids))}) end
end
`

const holding = (lock: string, token: string) => `
if redis.call('GET', ${lock}) ~= ${token} then
  return redis.error_reply('FENCED Another consumer of the group has taken over what this one had read.')
end
`

/** Makes a group at the beginning or the end, and the stream if there is none. Answers whether it made the group. */
export const begin = script(`
local create = {'XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM'}
if ARGV[2] == '$' and redis.call('EXISTS', KEYS[1]) == 1 then
  -- so that Redis can tell how far behind the group is, from the start
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'entries-added' then
      create[#create + 1] = 'ENTRIESREAD'
      create[#create + 1] = info[i + 1]
    end
  end
end
local made = redis.pcall(unpack(create))
if type(made) == 'table' and made.err then
  if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
  return made
end
return 1
`)

/** Makes an empty stream if there is none. */
export const declare = script(`
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
return 1
`)

/** Makes an empty stream that expires after the given milliseconds, if there is none. Answers whether it made the stream. */
export const declareTemporary = script(`
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
`)

/**
 * Removes a group and its additional keys. A temporary stream is emptied and left to expire: late replies would otherwise
 * recreate it without an expiry.
 */
export const end = script(`
local isTemporary = ARGV[2] ~= ''
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
  if isTemporary then
    redis.call('DEL', KEYS[1])
    redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end
return redis.call('DEL', KEYS[2], KEYS[3])
`)

/** Takes the lock if it is free, or held by an earlier consumer of this process that has ended. */
export const lock = script(`
local holder = redis.call('GET', KEYS[1])
local free = not holder
for i = 3, #ARGV do free = free or holder == ARGV[i] end
if not free then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`)

/** Renews the lock. */
export const renew = script(`
${holding("KEYS[1]", "ARGV[1]")}
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`)

/** Releases the lock. */
export const unlock = script(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`)

/** Reads new entries for the holder of the lock; if there are none, answers the last delivered id, to wait behind it. */
export const read = script(`
${holding("KEYS[2]", "ARGV[4]")}
local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
if found then return found[1][2] end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  if group[2] == ARGV[1] then
    for i = 1, #group, 2 do if group[i] == 'last-delivered-id' then return group[i + 1] end end
  end
end
return redis.error_reply('NOGROUP it was there a moment ago')
`)

/** Acknowledges entries for the holder of the lock. */
export const settle = script(`
${pieces}
${holding("KEYS[2]", "ARGV[2]")}
each({unpack(ARGV, 3)}, function(ids) redis.call('XACK', KEYS[1], ARGV[1], unpack(ids)) end)
return 1
`)

/** The most ids in one call of a script: `unpack` takes no more than 8,000 values. */
export const most = 4000

/** Splits ids into pieces that a script can take. */
export const inPieces = <A>(all: ReadonlyArray<A>, length: number): Array<ReadonlyArray<A>> =>
  all.length <= length
    ? [all]
    : Array.from({ length: Math.ceil(all.length / length) }, (_, i) => all.slice(i * length, (i + 1) * length))

const claiming = `
-- Takes over pending entries: id, fields and attempt of each, and how many are pending whose entry is gone from the stream.
local function claim(stream, group, me, idle, pending, out)
  local ids, counts, seen, gone = {}, {}, {}, {}
  for _, each in ipairs(pending) do
    if each[2] ~= me or idle == 0 then
      ids[#ids + 1] = each[1]
      counts[each[1]] = each[4]
    end
  end
  if #ids == 0 then return 0 end
  for _, entry in ipairs(redis.call('XCLAIM', stream, group, me, idle, unpack(ids))) do
    if entry and entry[2] then
      seen[entry[1]] = true
      out[#out + 1] = {entry[1], entry[2], counts[entry[1]] + 1}
    end
  end
  for _, id in ipairs(ids) do if not seen[id] then gone[#gone + 1] = id end end
  if #gone > 0 then redis.call('XACK', stream, group, unpack(gone)) end
  return #gone
end
`

/** Takes over one page of a group's pending entries, in order, for the holder of the lock; the last id starts the next page. */
export const takeOver = script(`
${claiming}
${holding("KEYS[2]", "ARGV[5]")}
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[4], '+', ARGV[3])
if #pending == 0 then return {'', {}, 0} end
local out = {}
local gone = claim(KEYS[1], ARGV[1], ARGV[2], 0, pending, out)
return {pending[#pending][1], out, gone}
`)

/** Makes delayed messages pending again, due or not, for a reader that takes over. Answers their number. */
export const undelay = script(`
local members = redis.call('ZRANGE', KEYS[2], 0, ARGV[3] - 1)
for _, member in ipairs(members) do
  redis.call('ZREM', KEYS[2], member)
  local id, attempt = string.match(member, '^(.-)|(%d+)$')
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', attempt - 1, 'FORCE', 'JUSTID')
end
return #members
`)

/**
 * Takes messages that need no new read: delayed messages that are due, released messages, and, if `idle` is not 0, messages
 * whose claim has ended. Then it also removes dead consumers that have nothing pending. Answers entries, milliseconds until the
 * next delayed message is due or -1, and how many entries are gone from the stream.
 */
export const sweep = script(`
${claiming}
local group, me, released, count, idle, prefix = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local out, gone = {}, 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, count)) do
  redis.call('ZREM', KEYS[2], member)
  local id, attempt = string.match(member, '^(.-)|(%d+)$')
  local entry = redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'RETRYCOUNT', attempt, 'FORCE')[1]
  if entry then out[#out + 1] = {id, entry[2], tonumber(attempt)} else gone = gone + 1 end
end
if #out < count then
  local back = redis.call('XPENDING', KEYS[1], group, '-', '+', count - #out, released)
  gone = gone + claim(KEYS[1], group, me, 0, back, out)
end
if idle > 0 then
  if #out < count then
    local left = redis.call('XPENDING', KEYS[1], group, 'IDLE', idle, '-', '+', count - #out)
    gone = gone + claim(KEYS[1], group, me, idle, left, out)
  end
  for _, other in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
    local about = {}
    for i = 1, #other, 2 do about[other[i]] = other[i + 1] end
    local own = string.sub(about.name, 1, #prefix) == prefix
    if own and about.name ~= me and about.name ~= released and about.pending == 0 and about.idle > 10 * idle then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, about.name)
    end
  end
end
local due = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
return {out, due and math.max(0, due - now) or -1, gone}
`)

/** Delays messages of this consumer: they are no longer pending, and due after the given milliseconds of the server's clock. */
export const delay = script(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 3, #ARGV, 3 do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
    redis.call('ZADD', KEYS[2], now + ARGV[i + 1], ARGV[i] .. '|' .. ARGV[i + 2])
  end
end
return 1
`)

// long enough ago for every claim to have ended
const year = 31_536_000_000

/** Releases messages of this consumer, for the next consumer that asks. */
export const release = script(`
for i = 4, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i], 'IDLE', ${year}, 'JUSTID')
  end
end
return 1
`)

/** Extends the claims of this consumer's messages. */
export const extend = script(`
${pieces}
local mine, ids = {}, {}
for _, each in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000000, ARGV[2])) do mine[each[1]] = true end
for i = 3, #ARGV do if mine[ARGV[i]] then ids[#ids + 1] = ARGV[i] end end
each(ids, function(some)
  some[#some + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(some))
end)
return #ids
`)

/** Releases the remaining messages of this consumer and leaves the group. */
export const leave = script(`
while true do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, ARGV[2])
  if #pending == 0 then break end
  for _, each in ipairs(pending) do
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, each[1], 'IDLE', ${year}, 'JUSTID')
  end
  -- what is gone from the stream cannot be claimed, and stays
  local still = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
  if #still > 0 and still[1][1] == pending[1][1] then redis.call('XACK', KEYS[1], ARGV[1], still[1][1]) end
end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
`)

/** Computes the lag of a group: undelivered, pending and delayed messages. -1 if Redis cannot tell. */
export const lag = script(`
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local about = {}
  for i = 1, #group, 2 do about[group[i]] = group[i + 1] end
  if about.name == ARGV[1] then
    if type(about.lag) ~= 'number' then return {-1} end
    return {about.lag + about.pending + redis.call('ZCARD', KEYS[2])}
  end
end
return {}
`)
