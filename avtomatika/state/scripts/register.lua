-- Registers a process; another boot under the same id ends.
-- KEYS: worker, workers, boots. ARGV: id, boot, record, expires at, seen at.
local before = redis.call('HGET', KEYS[1], 'b')
if before and before ~= ARGV[2] then
  redis.call('ZADD', KEYS[3], 'XX', 0, before)
end
redis.call('HSET', KEYS[1], 'b', ARGV[2], 'd', ARGV[3], 'e', ARGV[4], 'at', ARGV[5])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[2])
return 1
