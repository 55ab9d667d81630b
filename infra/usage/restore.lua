-- Adds what Firestore has of a subject's day to what came since Redis lost it, once, and not after all of it is back.
-- KEYS[1] is there once all is back, KEYS[2] what is back already
-- KEYS[3] whose the sums of former users are who got another token meanwhile
-- KEYS[4] what Firestore doesn't have yet, KEYS[5] the day's subjects
-- ARGV[1] for how many ms sums are kept, ARGV[2] what sums of the day begin with, ARGV[3] day, ARGV[4] subject
-- ARGV[5…] fields and numbers
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if redis.call('SADD', KEYS[2], ARGV[3] .. ' ' .. ARGV[4]) == 0 then return 0 end
redis.call('PEXPIRE', KEYS[2], ARGV[1])
local heir, nextHeir = ARGV[4], ARGV[4]
while nextHeir do
  heir, nextHeir = nextHeir, redis.call('HGET', KEYS[3], nextHeir)
end
local isMoved = heir ~= ARGV[4]
for f = 5, #ARGV, 2 do
  local isCost, isRest = ARGV[f] == 'cost', ARGV[f] == 'moved'
  if isRest or isCost and isMoved then redis.call('HINCRBY', ARGV[2] .. ARGV[4], 'moved', ARGV[f + 1]) end
  if not isRest then
    redis.call('HINCRBY', ARGV[2] .. heir, ARGV[f], ARGV[f + 1])
    redis.call('ZADD', KEYS[5], 0, heir)
  end
end
for _, subject in ipairs({ARGV[4], heir}) do
  redis.call('PEXPIRE', ARGV[2] .. subject, ARGV[1])
  if isMoved then redis.call('HINCRBY', KEYS[4], ARGV[3] .. ' ' .. subject, 1) end
end
redis.call('PEXPIRE', KEYS[4], ARGV[1])
redis.call('PEXPIRE', KEYS[5], ARGV[1])
return 1
