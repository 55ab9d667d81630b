-- Who owns a user: the present owner, or a new one that this script chooses and records.
-- KEYS[2] owner entry "<instance> <claim> <era>", KEYS[3] candidates (zset, score load), KEYS[4] evictable (zset, score
-- idle processes), KEYS[5] the user's home, the instance that has its files
-- ARGV[2] prefix of instance hashes, ARGV[3] claim number to use, ARGV[4] owner TTL in ms, ARGV[5..] instances to avoid
-- Returns {state, instance, address, fingerprint, version of the wire}: owner | draining | settling | full | none
local avoid = {}
for i = 5, #ARGV do avoid[ARGV[i]] = true end
local function instance(id)
  local f = redis.call('HMGET', ARGV[2] .. id, 'addr', 'capacity', 'reserved', 'idle', 'draining', 'fingerprint', 'wire')
  if not f[1] then return nil end
  return {id = id, addr = f[1], capacity = tonumber(f[2]), reserved = tonumber(f[3]), idle = tonumber(f[4]), draining = f[5] == '1',
    fingerprint = f[6] or '', wire = f[7] or '1'} -- the first release says neither
end
local entry = redis.call('GET', KEYS[2])
if entry then
  local id, _, era = string.match(entry, '^(%S+) (%S+) (%S+)$')
  local it = era == run and instance(id)
  if it then return {it.draining and 'draining' or 'owner', id, it.addr, it.fingerprint, it.wire} end
end
if settling(now_ms()) then return {'settling', '', '', '', ''} end

-- A member whose hash has expired is a dead instance: it is removed when met.
local seen = false
local function alive(id)
  local it = instance(id)
  if not it or it.draining then
    redis.call('ZREM', KEYS[3], id)
    redis.call('ZREM', KEYS[4], id)
    return nil
  end
  if avoid[id] then return nil end
  seen = true
  return it
end
local function room(it) return it and it.reserved < it.capacity end
local chosen
local home = redis.call('GET', KEYS[5])
if home and redis.call('ZSCORE', KEYS[3], home) then
  local it = alive(home)
  if room(it) then chosen = it end
end
for _ = 1, 8 do
  if chosen then break end
  local two = redis.call('ZRANDMEMBER', KEYS[3], 2)
  if #two == 0 then break end
  for _, id in ipairs(two) do
    local it = alive(id)
    if room(it) and (not chosen or it.reserved / it.capacity < chosen.reserved / chosen.capacity) then chosen = it end
  end
end
local function first(ids, fits)
  for _, id in ipairs(ids) do
    local it = alive(id)
    if it and fits(it) then return it end
  end
end
chosen = chosen or first(redis.call('ZRANGE', KEYS[3], 0, 15), room)
chosen = chosen or first(redis.call('ZREVRANGE', KEYS[4], 0, 15), function(it) return it.idle > 0 end)
if not chosen then
  return {seen and 'full' or 'none', '', '', '', ''}
end
redis.call('SET', KEYS[2], chosen.id .. ' ' .. ARGV[3] .. ' ' .. run, 'PX', ARGV[4])
redis.call('HINCRBY', ARGV[2] .. chosen.id, 'reserved', 1)
redis.call('ZADD', KEYS[3], (chosen.reserved + 1) / chosen.capacity, chosen.id)
return {'owner', chosen.id, chosen.addr, chosen.fingerprint, chosen.wire}
