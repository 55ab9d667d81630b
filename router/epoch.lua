-- Prepended to every script that places, confirms or beats. A Redis that restarted or failed over may have lost or
-- resurrected keys; its run id tells. With a new run id a new epoch begins: owner entries of earlier epochs don't
-- count, and until one lease has passed nobody is placed, so that every living instance can say again whom it holds.
-- The same goes for the time after no instance could beat for so long that hashes of the living may have expired.
-- KEYS[1] the epoch hash {run, since, beat: when the last one came, 0: too long ago}; ARGV[1] lease in ms.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local function run_id()
  local ok, info = pcall(redis.call, 'INFO', 'server')
  local _, before = string.find(ok and info or '', 'run_id:', 1, true)
  return before and string.sub(info, before + 1, before + 12) or 'embedded'
end
local run = run_id()
local epoch = redis.call('HMGET', KEYS[1], 'run', 'since', 'beat')
local since, beat = tonumber(epoch[2]), tonumber(epoch[3])
if epoch[1] ~= run then
  since = now_ms()
  redis.call('HSET', KEYS[1], 'run', run, 'since', since)
end
-- Instances beat every third of a lease, so none of their hashes has expired before half a lease went by without any.
local function quiet(now) return beat and now - beat > tonumber(ARGV[1]) / 2 end
-- Beats of earlier releases aren't kept: where only they go on, the wait is one lease and not until a beat is kept
-- again.
local function settling(now)
  if beat ~= 0 and quiet(now) then
    since = now
    redis.call('HSET', KEYS[1], 'since', since, 'beat', 0)
  end
  return now < since + tonumber(ARGV[1])
end
