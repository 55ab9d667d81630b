-- An instance says again whom it holds. An entry that is missing or of an earlier epoch becomes its own; its own lives
-- on; another's stays.
-- KEYS[2..] owner entries; ARGV[2] instance, ARGV[3] owner TTL in ms, ARGV[4..] claim numbers, one for each entry
-- Returns the indexes (from 1) of the entries that are another's.
local moved = {}
-- All are read at once: after an outage every instance asserts everybody it holds, and must get it done within a lease.
local entries = redis.call('MGET', unpack(KEYS, 2))
for i, entry in ipairs(entries) do
  local own = ARGV[2] .. ' ' .. ARGV[i + 3] .. ' ' .. run
  if entry and entry ~= own and string.match(entry, '(%S+)$') == run then
    moved[#moved + 1] = i
  else
    redis.call('SET', KEYS[i + 1], own, 'PX', ARGV[3])
  end
end
return moved
