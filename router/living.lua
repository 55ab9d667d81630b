-- The instances that users are placed on next, each as {id, address, fingerprint, version of the wire}. Those that are
-- dead, as their hash has expired, are removed: a claim would do so when it meets one, which may be late or never.
-- KEYS[1] candidates, KEYS[2] evictable; ARGV[1] prefix of instance hashes, ARGV[2] how many to look at
local living = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1)) do
  local f = redis.call('HMGET', ARGV[1] .. id, 'addr', 'fingerprint', 'wire')
  if f[1] then
    living[#living + 1] = {id, f[1], f[2] or '', f[3] or '1'} -- the first release says neither of the last two
  else
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  end
end
return living
