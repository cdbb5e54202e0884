-- Ends leases of attempts that are over, and lets others go. ARGV: now.
local now = tonumber(ARGV[1])
for _, name in ipairs(redis.call('SMEMBERS', key('leases'))) do
  local lease = key('lease', name)
  for _, id in ipairs(redis.call('ZRANGE', lease, 0, -1)) do
    local state = redis.call('HGET', key('task', id), 'st')
    if state ~= 'dispatched' and state ~= 'claimed' then
      redis.call('ZREM', lease, id)
    end
  end
  if redis.call('EXISTS', lease) == 0 then
    redis.call('SREM', key('leases'), name)
  end
end
for _, name in ipairs(redis.call('HVALS', key('parked'))) do
  unpark(name, now)
end
return outcome()
