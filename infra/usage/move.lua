-- Makes a former user's sums those of the present one, once. What was spent still counts for the former one's budget:
-- whoever has several tokens gains nothing by moving from one to another.
-- KEYS[1] number of the last turn of the ledger that was added, KEYS[2] what Firestore doesn't have yet
-- KEYS[3] is there unless sums are being restored, KEYS[4] whose the sums of former users are that are still to come
-- then for each day: the day's subjects, the former user's sums, the present one's
-- ARGV[1] the number, as of a turn, ARGV[2] for how many ms sums are kept, ARGV[3] former user, ARGV[4] present user
-- ARGV[5…] the days
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) <= last then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('HDEL', KEYS[4], ARGV[4]) -- so that it leads nowhere in a circle
  redis.call('HSET', KEYS[4], ARGV[3], ARGV[4])
  redis.call('PEXPIRE', KEYS[4], ARGV[2])
end
for d = 5, #ARGV do
  local at = 3 * (d - 5) + 5
  local sums = redis.call('HGETALL', KEYS[at + 1])
  local cost, moved, some = 0, 0, false
  for f = 1, #sums, 2 do
    if sums[f] == 'moved' then
      moved = tonumber(sums[f + 1])
    else
      some = true
      redis.call('HINCRBY', KEYS[at + 2], sums[f], sums[f + 1])
    end
    if sums[f] == 'cost' then cost = tonumber(sums[f + 1]) end
  end
  if some then
    local back = math.min(cost, tonumber(redis.call('HGET', KEYS[at + 2], 'moved') or '0'))
    if back > 0 then redis.call('HINCRBY', KEYS[at + 2], 'moved', string.format('%d', -back)) end
    redis.call('PEXPIRE', KEYS[at + 2], ARGV[2])
    redis.call('DEL', KEYS[at + 1])
    redis.call('HSET', KEYS[at + 1], 'moved', string.format('%d', cost + moved))
    redis.call('PEXPIRE', KEYS[at + 1], ARGV[2])
    redis.call('ZREM', KEYS[at], ARGV[3])
    redis.call('ZADD', KEYS[at], 0, ARGV[4])
    redis.call('PEXPIRE', KEYS[at], ARGV[2])
    for s = 3, 4 do redis.call('HINCRBY', KEYS[2], ARGV[d] .. ' ' .. ARGV[s], 1) end
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
