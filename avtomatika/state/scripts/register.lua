-- Registers a process; another boot under the same id ends.
-- KEYS: worker, workers, boots. ARGV: id, boot, record, expires at, seen at, slots, now.
-- The first write is one that a full Redis refuses: then nothing was changed.
local before = redis.call('HGET', KEYS[1], 'b')
if before and before ~= ARGV[2] then
  redis.call('ZADD', KEYS[3], 'XX', 0, before)
end
redis.call('SADD', KEYS[2], ARGV[1])
unindex(ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'b', ARGV[2], 'd', ARGV[3], 'e', ARGV[4], 'at', ARGV[5], 'l', ARGV[6])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[2])
redis.call('HSET', key('boots', 'workers'), ARGV[2], ARGV[1])
if cjson.decode(ARGV[3]).http then
  redis.call('HSET', KEYS[1], 'h', 1)
end
reindex(ARGV[1], true)
for _, task_type in ipairs(cjson.decode(ARGV[3]).tasks) do
  TODO.types[task_type] = true
  TODO.names['\n' .. task_type] = true
end
return outcome(tonumber(ARGV[7]))
