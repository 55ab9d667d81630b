-- Has a user and the former user it was before at one instance: one without an owner gets that of the other.
-- KEYS[2] the user's owner entry, KEYS[3] the former user's
-- ARGV[2] prefix of instance hashes, ARGV[3] claim number to use, ARGV[4] owner TTL of the user in ms, ARGV[5] of the
-- former user, who is to be given up soon
-- Returns {state, instance}: together | neither: has an owner | apart: and the former user's is the instance | draining
-- | settling
local function owner(key)
  local entry = redis.call('GET', key)
  local id, _, epoch = string.match(entry or '', '^(%S+) (%S+) (%S+)$')
  if not id or epoch ~= run then return nil end
  local draining = redis.call('HGET', ARGV[2] .. id, 'draining')
  return draining and {id = id, draining = draining == '1'}
end
local present, former = owner(KEYS[2]), owner(KEYS[3])
if present and present.draining or former and former.draining then return {'draining', ''} end
if present and former then
  return {present.id == former.id and 'together' or 'apart', former.id}
end
if settling(now_ms()) then return {'settling', ''} end
local one = present or former
if not one then return {'neither', ''} end
if present then
  redis.call('SET', KEYS[3], one.id .. ' ' .. ARGV[3] .. ' ' .. run, 'PX', ARGV[5])
else
  redis.call('SET', KEYS[2], one.id .. ' ' .. ARGV[3] .. ' ' .. run, 'PX', ARGV[4])
end
return {'together', one.id}
