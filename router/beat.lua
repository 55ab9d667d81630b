-- An instance says that it lives and what it holds.
-- KEYS[2] its hash, KEYS[3] candidates, KEYS[4] evictable, KEYS[5] pending: instances no front has dialled yet, KEYS[6]
-- users it is asked to give up
-- ARGV[2] id, ARGV[3] address, ARGV[4] capacity, ARGV[5] reserved, ARGV[6] idle, ARGV[7] draining 0|1, ARGV[8] the
-- epoch in which the instance last reconciled, empty if it never has: then the hash is made anew, ARGV[9] version of
-- the wire, ARGV[10] the fingerprint of its certificate, ARGV[11] the registration's number,
-- ARGV[12] 1: no conversation can begin there
-- Returns {state, epoch, users to give up...}: ok | reconcile. An expired hash is not brought back by a beat that
-- doesn't know it: the instance may have lost its users, and has to reconcile first. The same goes for a hash of
-- another registration: one that was thought lost may come in late and bring an expired hash back.
local before = redis.call('HMGET', KEYS[2], 'registration', 'draining')
local known = before[1] == ARGV[11]
if ARGV[8] ~= '' and (not known or ARGV[8] ~= run) then
  return {'reconcile', run}
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'since', quiet(now) and now or since, 'beat', now)
-- A drain doesn't end: a beat that says otherwise was under way when the drain began.
local draining = before[2] == '1' and '1' or ARGV[7]
redis.call('HSET', KEYS[2], 'addr', ARGV[3], 'capacity', ARGV[4], 'reserved', ARGV[5], 'idle', ARGV[6], 'draining', draining,
  'wire', ARGV[9], 'fingerprint', ARGV[10], 'registration', ARGV[11], 'full', ARGV[12])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
if draining == '1' then
  redis.call('ZREM', KEYS[3], ARGV[2])
  redis.call('ZREM', KEYS[4], ARGV[2])
  redis.call('SREM', KEYS[5], ARGV[2])
elseif redis.call('ZSCORE', KEYS[3], ARGV[2]) then
  -- Where nothing can begin is still a living instance, but the last to be looked at.
  local full = ARGV[12] == '1'
  redis.call('ZADD', KEYS[3], full and 1e9 or tonumber(ARGV[5]) / tonumber(ARGV[4]), ARGV[2])
  redis.call('ZADD', KEYS[4], full and -1 or ARGV[6], ARGV[2])
else
  redis.call('SADD', KEYS[5], ARGV[2])
end
local answer = {'ok', run}
for _, user in ipairs(redis.call('SMEMBERS', KEYS[6])) do answer[#answer + 1] = user end
redis.call('DEL', KEYS[6])
return answer
