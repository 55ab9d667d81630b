-- A front has dialled an instance: users may be placed there.
-- KEYS[1] pending, KEYS[2] candidates, KEYS[3] evictable, KEYS[4] the instance's hash; ARGV[1] instance
redis.call('SREM', KEYS[1], ARGV[1])
local f = redis.call('HMGET', KEYS[4], 'draining', 'reserved', 'capacity', 'idle')
if f[1] ~= '0' then return 0 end
redis.call('ZADD', KEYS[2], tonumber(f[2]) / tonumber(f[3]), ARGV[1])
redis.call('ZADD', KEYS[3], f[4], ARGV[1])
return 1
