-- The instances that users are placed on next. Those that are dead, as their hash has expired, are removed: a claim would
-- do so when it meets one, which may be late or never.
-- KEYS[1] candidates, KEYS[2] evictable; ARGV[1] prefix of instance hashes, ARGV[2] how many to look at
local living = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1)) do
  if redis.call('EXISTS', ARGV[1] .. id) == 1 then
    living[#living + 1] = id
  else
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  end
end
return living
