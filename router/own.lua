-- Which users that an instance doesn't hold yet are its own.
-- KEYS[2..] owner entries; ARGV[2] instance. Returns for each the claim number, or an empty string.
local claims = {}
for i, entry in ipairs(redis.call('MGET', unpack(KEYS, 2))) do
  local id, claim, era = string.match(entry or '', '^(%S+) (%S+) (%S+)$')
  claims[i] = id == ARGV[2] and era == run and claim or ''
end
return claims
