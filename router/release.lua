-- Gives a user up, if the entry still is this instance's by this claim.
-- KEYS[1] owner entry, KEYS[2] the user's home, KEYS[3] the instance's hash
-- KEYS[4] what the user's next owner is to find
-- ARGV[1] instance, ARGV[2] claim number, ARGV[3] for how many ms the instance stays the user's home, 0: not at all,
-- ARGV[4] what is handed over, ARGV[5] for how many ms, 0: nothing is, and what an owner before has left may stay
local entry = redis.call('GET', KEYS[1])
if not entry then return 0 end
local id, claim = string.match(entry, '^(%S+) (%S+) (%S+)$')
if id ~= ARGV[1] or claim ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
if ARGV[3] ~= '0' then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3]) else redis.call('DEL', KEYS[2]) end
if ARGV[5] ~= '0' then redis.call('SET', KEYS[4], ARGV[4], 'PX', ARGV[5]) end
if tonumber(redis.call('HGET', KEYS[3], 'reserved') or '0') > 0 then redis.call('HINCRBY', KEYS[3], 'reserved', -1) end
return 1
