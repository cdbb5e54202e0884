-- Counts a branch of a fan-out as done; the one that completes the join runs the second list of commands, too.
-- KEYS: branches. ARGV: fan-out id, task id, result, JSON of both lists of commands.
local current = redis.call('HGET', KEYS[1], ARGV[2])
if redis.call('HGET', KEYS[1], '#fanout') ~= ARGV[1] or not current or string.sub(current, -1) ~= '|' then
  return 'stale'
end
redis.call('HSET', KEYS[1], ARGV[2], current .. ARGV[3])
local left = redis.call('HINCRBY', KEYS[1], '#left', -1)
local lists = cjson.decode(ARGV[4])
local function run(commands)
  for _, command in ipairs(commands) do
    redis.call(unpack(command))
  end
end
run(lists[1])
if left == 0 then
  run(lists[2])
  return 'last'
end
return 'done'
