-- Refreshes a registration and replaces its record where one is given, if this boot holds it.
-- KEYS: worker, boots. ARGV: boot, expires at, record or '', seen at, id, slots.
local record = redis.call('HMGET', KEYS[1], 'b', 'su', 'e')
if record[1] ~= ARGV[1] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'e', ARGV[2], 'at', ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('HDEL', KEYS[1], 'su')
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'd', ARGV[3], 'l', ARGV[6])
  reindex(ARGV[5], true)
elseif record[2] or tonumber(record[3]) <= tonumber(ARGV[4]) then -- whoever looked meanwhile has taken a silent one out
  reindex(ARGV[5], false)
end
return 1
