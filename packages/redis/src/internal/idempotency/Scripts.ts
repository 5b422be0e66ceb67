/**
 * Runs a group of operations atomically in one script.
 *
 * | key            | holds                                                                                      |
 * | -------------- | ------------------------------------------------------------------------------------------ |
 * | `prefix:token` | the last token                                                                             |
 * | `prefix:k:…`   | a string that expires with its claim or its result: `C` or `D`, its token, a blank, the claimant, a blank, the byte length of its fingerprint, a blank, the fingerprint, and the result |
 *
 * A token is the server's time in microseconds, or the last token plus one if that is greater, so tokens also grow after the
 * server has lost its data. Time stands still in a script, and expired keys are gone for it.
 */
import { script } from "../client/Client.ts"

const reading = `
-- kind, token, who, fingerprint, and where the result begins
local function read(value)
  local kind, token, who, length, at = string.match(value, '^(.)(%d+) (%S*) (%d+) ()')
  local rest = at + tonumber(length)
  return kind, token, who, string.sub(value, at, rest - 1), rest
end
`

/**
 * Claims keys for a lease in milliseconds; each argument is the part of the value after the token. Answers the token for a new
 * claim or a retry of the same claim, else a text. A full server refuses claims.
 */
export const claims = script(
  `
${reading}
local time = redis.call('TIME')
local token = math.max(tonumber(redis.call('GET', KEYS[1]) or 0) + 1, time[1] * 1000000 + time[2])
local before = token
local answers, lease = {}, ARGV[1]
for i = 2, #KEYS do
  local key, asking = KEYS[i], ARGV[i]
  local value = redis.call('SET', key, string.format('C%.0f ', token) .. asking, 'NX', 'GET', 'PX', lease)
  if not value then
    answers[i - 1] = token
    token = token + 1
  else
    local state, held, who, fingerprint, rest = read(value)
    local _, _, me, asked = read('C0 ' .. asking)
    if fingerprint ~= asked then answers[i - 1] = 'X'
    elseif state == 'D' then answers[i - 1] = 'D' .. string.sub(value, rest)
    -- its answer was lost on the way
    elseif who == me then answers[i - 1] = tonumber(held)
    else answers[i - 1] = 'R' .. redis.call('PTTL', key)
    end
  end
end
if token > before then redis.call('SET', KEYS[1], string.format('%.0f', token - 1)) end
return answers
`,
  "refused"
)

/**
 * Completes, extends and releases, with three arguments each. A full server runs it too, or finished work would be repeated.
 * Answers 1 if the caller held the key.
 */
export const others = script(`
${reading}
local answers = {}
for i = 1, #KEYS do
  local key, at = KEYS[i], (i - 1) * 3
  -- the milliseconds, with the result behind a blank
  local kind, token, rest = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local value = redis.call('GET', key)
  local state, held = nil, nil
  if value then state, held = string.match(value, '^(.)(%d+) ') end
  answers[i] = 0
  if held == token then
    if kind == 'complete' then
      local millis, result = string.match(rest, '^(%d+) ()')
      local _, _, _, _, old = read(value)
      if state == 'C' then
        redis.call('SET', key, 'D' .. string.sub(value, 2, old - 1) .. string.sub(rest, result), 'PX', millis)
        answers[i] = 1
      -- it was completed by this claim, and the answer was lost on the way
      elseif string.sub(value, old) == string.sub(rest, result) then answers[i] = 1
      end
    elseif state == 'C' then
      if kind == 'extend' then redis.call('PEXPIRE', key, rest) else redis.call('DEL', key) end
      answers[i] = 1
    end
  end
end
return answers
`)
