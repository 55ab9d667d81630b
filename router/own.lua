-- Which users that an instance doesn't hold yet are its own, and whose credentials are proven.
-- KEYS[2..] owner entries of so many users, then in the same order what says that they are proven; ARGV[2] instance
-- Returns for each {the claim number, or an empty string; for how many ms the user is still proven, none if negative}
local users = (#KEYS - 1) / 2
if users == 0 then return {} end
local claims = {}
for i, entry in ipairs(redis.call('MGET', unpack(KEYS, 2, 1 + users))) do
  local id, claim, epoch = string.match(entry or '', '^(%S+) (%S+) (%S+)$')
  local own = id == ARGV[2] and epoch == run
  claims[i] = own and {claim, redis.call('PTTL', KEYS[1 + users + i])} or {'', -1}
end
return claims
