-- Takes the first attempt whose hand-over began before a time and is not confirmed. KEYS: handing, claims. ARGV: before, now.
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, 100)) do
  if redis.call('HEXISTS', KEYS[2], 't:' .. id) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[2], id)
    return id
  end
  redis.call('ZREM', KEYS[1], id)
end
return false
