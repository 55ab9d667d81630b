-- Adds what a turn took to the sums of its user, and to those of its service key, once.
-- KEYS[1] number of the last turn of the ledger that was added, KEYS[2] what Firestore doesn't have yet
-- KEYS[3] the day's subjects, KEYS[4] sums of the user, KEYS[5] if there is a service key: its sums
-- ARGV[1] the turn's number, ARGV[2] for how many ms sums are kept, ARGV[3] day, ARGV[4] user
-- ARGV[5] the service key's subject, or '', ARGV[6…] fields and what is to be added to each
-- Returns 1, or 0 if it was added before: numbers of a ledger only grow.
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) <= last then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = 4, #KEYS do
  local subject = ARGV[i]
  for f = 6, #ARGV, 2 do redis.call('HINCRBY', KEYS[i], ARGV[f], ARGV[f + 1]) end
  redis.call('PEXPIRE', KEYS[i], ARGV[2])
  redis.call('ZADD', KEYS[3], 0, subject)
  redis.call('HINCRBY', KEYS[2], ARGV[3] .. ' ' .. subject, 1)
end
redis.call('PEXPIRE', KEYS[2], ARGV[2]) -- where there is no Firestore nobody takes anything away
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return 1
