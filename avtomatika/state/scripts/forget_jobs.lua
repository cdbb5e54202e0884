-- Forgets ended jobs whose retention has passed. ARGV: now, how many at most, then as `forget` takes them.
-- Returns how many of them were looked at.
local due = redis.call('ZRANGEBYSCORE', NS .. ':expiring', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, member in ipairs(due) do
  local id, status, client = string.match(member, '^(%S+) (%S+) (.*)$')
  local stored = redis.call('HGET', NS .. ':job:' .. id, 's')
  if not stored or stored == status then
    forget(id, status, client, {unpack(ARGV, 3)})
  end
  redis.call('ZREM', NS .. ':expiring', member)
end
return #due
