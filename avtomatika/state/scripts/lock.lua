-- Renews ('renew', ttl in ms) or releases ('release') a lock, if this holder has it. KEYS: lock. ARGV: holder, what, ttl.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'renew' then
  return redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('DEL', KEYS[1])
