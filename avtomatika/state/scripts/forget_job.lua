-- Forgets one ended job now. ARGV: its version, id, status, client, then as `forget` takes them. Returns 1, or 0 where it has changed.
if redis.call('HGET', NS .. ':job:' .. ARGV[2], 'v') ~= ARGV[1] then
  return 0
end
forget(ARGV[2], ARGV[3], ARGV[4], {unpack(ARGV, 5)})
redis.call('ZREM', NS .. ':expiring', ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
return 1
