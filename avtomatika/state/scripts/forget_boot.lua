-- Forgets an ended boot that holds nothing any more. KEYS: claims of the boot, boots. ARGV: boot, now.
local expires = redis.call('ZSCORE', KEYS[2], ARGV[1])
if expires and tonumber(expires) > tonumber(ARGV[2]) then
  return 0
end
if redis.call('HLEN', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 1
end
return 0
