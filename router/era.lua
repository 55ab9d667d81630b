-- Prepended to every script that places, confirms or beats. A Redis that restarted or failed over may have lost or
-- resurrected keys; its run id tells. With a new run id a new era begins: owner entries of earlier eras don't count, and
-- until one lease has passed nobody is placed, so that every living instance can say again whom it holds.
-- KEYS[1] the era hash {run, since}; ARGV[1] lease in ms.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local function run_id()
  local ok, info = pcall(redis.call, 'INFO', 'server')
  local id = ok and type(info) == 'string' and string.match(info, 'run_id:(%w+)')
  return id and string.sub(id, 1, 12) or 'embedded'
end
local run = run_id()
local era = redis.call('HMGET', KEYS[1], 'run', 'since')
local since = tonumber(era[2])
if era[1] ~= run then
  since = now_ms()
  redis.call('HSET', KEYS[1], 'run', run, 'since', since)
end
local function settling() return now_ms() < since + tonumber(ARGV[1]) end
