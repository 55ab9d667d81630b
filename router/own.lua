-- Whether a user that an instance doesn't hold yet is its own.
-- KEYS[2] owner entry; ARGV[2] instance. Returns the claim number, or an empty string.
local entry = redis.call('GET', KEYS[2])
if not entry then return '' end
local id, claim, era = string.match(entry, '^(%S+) (%S+) (%S+)$')
if id == ARGV[2] and era == run then return claim end
return ''
