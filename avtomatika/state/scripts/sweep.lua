-- Ends leases of attempts that are over, and lets others go. ARGV: now.
local now = tonumber(ARGV[1])
for _, name in ipairs(redis.call('SMEMBERS', key('leases'))) do
  for _, id in ipairs(redis.call('ZRANGE', key('lease', name), 0, -1)) do
    local state = redis.call('HGET', key('task', id), 'st')
    if state ~= 'dispatched' and state ~= 'claimed' then
      end_lease(name, id)
    end
  end
end
for _, name in ipairs(redis.call('SMEMBERS', key('parkings'))) do
  TODO.names[name] = true
end
return outcome(now)
