-- Refreshes a registration and replaces its record where one is given, if this boot holds it.
-- KEYS: worker, boots. ARGV: boot, expires at, record or '', seen at, id, slots.
local record = redis.call('HMGET', KEYS[1], 'b', 'su', 'e', 'no')
if record[1] ~= ARGV[1] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'e', ARGV[2], 'at', ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('HDEL', KEYS[1], 'su')
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'd', ARGV[3], 'l', ARGV[6])
  reindex(ARGV[5], true)
elseif record[2] or record[4] or tonumber(record[3]) <= tonumber(ARGV[4]) then
  reindex(ARGV[5], true) -- its record is what it said last: whatever was doubted, refused or thought silent since is told again
end
return 1
