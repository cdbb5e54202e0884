-- A schedule is added, or says something else from now on.
-- KEYS: its hash, the hash of all digests, the index by due time.
-- ARGV: name, expected digest ('' for none), digest, record, and for one with another timing its anchor and next due time ('': never).
-- Returns 1 where it is as asked for now, 0 where another one is there.
local name, digest = ARGV[1], ARGV[3]
local found = redis.call('HGET', KEYS[2], name) or ''
if found == digest then
  return 1
end
if found ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[2], name, digest)
redis.call('HSET', KEYS[1], 'd', ARGV[4])
redis.call('PERSIST', KEYS[1])
if ARGV[5] then
  redis.call('HSET', KEYS[1], 'a', ARGV[5], 'at', ARGV[6])
  if ARGV[6] == '' or redis.call('HEXISTS', KEYS[1], 'p') == 1 then
    redis.call('ZREM', KEYS[3], name)
  else
    redis.call('ZADD', KEYS[3], ARGV[6], name)
  end
end
return 1
