-- Who owns some users: of each the present owner, or a new one that this script chooses and records.
-- KEYS[2] candidates (zset, score load), KEYS[3] evictable (zset, score idle processes), then for each user KEYS[i]
-- owner entry "<instance> <claim> <epoch>", KEYS[i+1] the user's home, the instance that has its files
-- ARGV[2] prefix of instance hashes, ARGV[3] owner TTL in ms, ARGV[4] how many users, then a claim number to use for
-- each, then instances to avoid
-- Returns for each {state, instance, address, fingerprint, version of the wire}: owner | draining | settling | full |
-- none
local users = tonumber(ARGV[4])
local avoid = {}
for i = 5 + users, #ARGV do avoid[ARGV[i]] = true end
local waiting = settling(now_ms())
local function instance(id)
  local f = redis.call('HMGET', ARGV[2] .. id, 'addr', 'capacity', 'reserved', 'idle', 'draining', 'fingerprint', 'wire', 'full')
  if not f[1] then return nil end
  return {id = id, addr = f[1], capacity = tonumber(f[2]), reserved = tonumber(f[3]), idle = tonumber(f[4]), draining = f[5] == '1',
    fingerprint = f[6] or '', wire = f[7] or '1', full = f[8] == '1'} -- the first release says none of these
end

-- A member whose hash has expired is a dead instance: it is removed when met.
local seen
local function alive(id)
  local it = instance(id)
  if not it or it.draining then
    redis.call('ZREM', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
    return nil
  end
  if avoid[id] then return nil end
  seen = true
  return it
end
local function room(it) return it and it.reserved < it.capacity end
-- A user with files at home can go on there; all others need an instance where a conversation can begin.
local function roomForNew(it) return room(it) and not it.full end
local function first(ids, fits)
  for _, id in ipairs(ids) do
    local it = alive(id)
    if it and fits(it) then return it end
  end
end
local function choose(home)
  if home and redis.call('ZSCORE', KEYS[2], home) then
    local it = alive(home)
    if room(it) then return it end
  end
  for _ = 1, 8 do
    local two = redis.call('ZRANDMEMBER', KEYS[2], 2)
    if #two == 0 then break end
    local chosen
    for _, id in ipairs(two) do
      local it = alive(id)
      if roomForNew(it) and (not chosen or it.reserved / it.capacity < chosen.reserved / chosen.capacity) then chosen = it end
    end
    if chosen then return chosen end
  end
  return first(redis.call('ZRANGE', KEYS[2], 0, 15), roomForNew)
    or first(redis.call('ZREVRANGE', KEYS[3], 0, 15), function(it) return it.idle > 0 and not it.full end)
end

local function claim(key, home, number)
  local entry = redis.call('GET', key)
  if entry then
    local id, _, epoch = string.match(entry, '^(%S+) (%S+) (%S+)$')
    local it = epoch == run and instance(id)
    if it then return {it.draining and 'draining' or 'owner', id, it.addr, it.fingerprint, it.wire} end
  end
  if waiting then return {'settling', '', '', '', ''} end
  seen = false
  local chosen = choose(redis.call('GET', home))
  if not chosen then return {seen and 'full' or 'none', '', '', '', ''} end
  redis.call('SET', key, chosen.id .. ' ' .. number .. ' ' .. run, 'PX', ARGV[3])
  redis.call('HINCRBY', ARGV[2] .. chosen.id, 'reserved', 1)
  if not chosen.full then redis.call('ZADD', KEYS[2], (chosen.reserved + 1) / chosen.capacity, chosen.id) end
  return {'owner', chosen.id, chosen.addr, chosen.fingerprint, chosen.wire}
end
local answers = {}
for i = 1, users do answers[i] = claim(KEYS[2 + 2 * i], KEYS[3 + 2 * i], ARGV[4 + i]) end
return answers
