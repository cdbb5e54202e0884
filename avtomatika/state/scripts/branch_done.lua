-- Counts a branch of a fan-out as done; the one that completes the join runs the second list of commands, too.
-- KEYS: branches. ARGV: fan-out id, task id, result, number of words in the first list, both lists as in guarded.lua.
local current = redis.call('HGET', KEYS[1], ARGV[2])
if redis.call('HGET', KEYS[1], '#fanout') ~= ARGV[1] or not current or string.sub(current, -1) ~= '|' then
  return 'stale'
end
redis.call('HSET', KEYS[1], ARGV[2], current .. ARGV[3])
local left = redis.call('HINCRBY', KEYS[1], '#left', -1)
local function run(from, to)
  local i = from
  while i <= to do
    local count = tonumber(ARGV[i])
    redis.call(unpack(ARGV, i + 1, i + count))
    i = i + count + 1
  end
end
local first = tonumber(ARGV[4])
run(5, 4 + first)
if left == 0 then
  run(5 + first, #ARGV)
  return 'last'
end
return 'done'
