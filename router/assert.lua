-- An instance says again whom it holds. An entry that is missing or of an earlier era becomes its own; its own lives on;
-- another's stays.
-- KEYS[2..] owner entries; ARGV[2] instance, ARGV[3] owner TTL in ms, ARGV[4..] claim numbers, one for each entry
-- Returns the indexes (from 1) of the entries that are another's.
local moved = {}
for i = 2, #KEYS do
  local claim = ARGV[i + 2]
  local entry = redis.call('GET', KEYS[i])
  local id, number, era
  if entry then id, number, era = string.match(entry, '^(%S+) (%S+) (%S+)$') end
  if id and era == run and (id ~= ARGV[2] or number ~= claim) then
    moved[#moved + 1] = i - 1
  else
    redis.call('SET', KEYS[i], ARGV[2] .. ' ' .. claim .. ' ' .. run, 'PX', ARGV[3])
  end
end
return moved
