-- Forgets an ended boot that holds nothing any more, and its worker. KEYS: claims of the boot, boots. ARGV: boot, now.
local expires = redis.call('ZSCORE', KEYS[2], ARGV[1])
if expires and tonumber(expires) > tonumber(ARGV[2]) then
  return ''
end
if redis.call('HLEN', KEYS[1]) > 0 then
  return ''
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', key('stops', ARGV[1]), key('handing', ARGV[1]))
local id = redis.call('HGET', key('boots', 'workers'), ARGV[1])
redis.call('HDEL', key('boots', 'workers'), ARGV[1])
if id and redis.call('HGET', key('worker', id), 'b') == ARGV[1] then
  forget_worker(id, tonumber(ARGV[2]))
end
return outcome(tonumber(ARGV[2]))
