-- Counts a branch of a fan-out as done; the one that makes the verdict clear runs the second list of commands, too.
-- KEYS: branches. ARGV: fan-out id, task id, result, 1 where it is a success, now, JSON of both lists of commands.
local fields = redis.call('HMGET', KEYS[1], ARGV[2], '#fanout', '#need', '#may', '#told')
local current = fields[1]
local counts = fields[2] == ARGV[1] and current and string.sub(current, -1) == '|'
if not counts or redis.call('EXISTS', key('task', ARGV[2])) == 0 then
  return {'stale'}
end
redis.call('HSET', KEYS[1], ARGV[2], current .. ARGV[3])
local left = redis.call('HINCRBY', KEYS[1], '#left', -1)
local succeeded = redis.call('HINCRBY', KEYS[1], '#good', ARGV[4] == '1' and 1 or 0)
local failed = redis.call('HINCRBY', KEYS[1], '#bad', ARGV[4] == '1' and 0 or 1)
local lists = cjson.decode(ARGV[6])
drop(ARGV[2], tonumber(ARGV[5]))
for _, command in ipairs(lists[1]) do
  if command[1] == '@event' then
    append_event(command[2], command[3], command[4])
  else
    redis.call(unpack(command))
  end
end
local need, may = tonumber(fields[3] or ''), tonumber(fields[4] or '')
local clear = left == 0 or (need and succeeded >= need) or (may and failed > may)
if clear and not fields[5] then
  redis.call('HSET', KEYS[1], '#told', 1)
  for _, command in ipairs(lists[2]) do
    redis.call(unpack(command))
  end
  return {'last', outcome(tonumber(ARGV[5]))}
end
return {'done', outcome(tonumber(ARGV[5]))}
