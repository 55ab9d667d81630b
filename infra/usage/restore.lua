-- Adds what Firestore has of a subject's day to what came since Redis lost it, once.
-- KEYS[1] the day's subjects, KEYS[2] the subject's sums
-- ARGV[1] for how many ms sums are kept, ARGV[2] subject, ARGV[3…] fields and numbers
if redis.call('HSETNX', KEYS[2], 'restored', 1) == 0 then return 0 end
for f = 3, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[f], ARGV[f + 1]) end
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[1], 0, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
