-- Refreshes a registration and merges changes (a JSON object, or '') into its record, if this boot holds it.
-- KEYS: worker, boots. ARGV: boot, expires at, changes, seen at.
local record = redis.call('HMGET', KEYS[1], 'b', 'd')
if record[1] ~= ARGV[1] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'e', ARGV[2], 'at', ARGV[4])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'd', ARGV[3])
end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 1
