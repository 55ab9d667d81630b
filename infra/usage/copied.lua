-- Notes that Firestore has a subject's day, unless something has been added since.
-- KEYS[1] what Firestore doesn't have yet, ARGV[1] day and subject, ARGV[2] how often something had been added
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
