-- Makes a former user's sums those of the present one, once.
-- KEYS[1] number of the last turn of the ledger that was added, KEYS[2] what Firestore doesn't have yet
-- then for each day: the day's subjects, the former user's sums, the present one's
-- ARGV[1] the number, as of a turn, ARGV[2] for how many ms sums are kept, ARGV[3] former user, ARGV[4] present user
-- ARGV[5…] the days
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) <= last then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for d = 5, #ARGV do
  local at = 3 * (d - 4)
  local sums = redis.call('HGETALL', KEYS[at + 1])
  if #sums > 0 then
    for f = 1, #sums, 2 do
      if sums[f] ~= 'restored' then redis.call('HINCRBY', KEYS[at + 2], sums[f], sums[f + 1]) end
    end
    redis.call('PEXPIRE', KEYS[at + 2], ARGV[2])
    redis.call('DEL', KEYS[at + 1])
    redis.call('ZREM', KEYS[at], ARGV[3])
    redis.call('ZADD', KEYS[at], 0, ARGV[4])
    for s = 3, 4 do redis.call('HINCRBY', KEYS[2], ARGV[d] .. ' ' .. ARGV[s], 1) end
  end
end
return 1
