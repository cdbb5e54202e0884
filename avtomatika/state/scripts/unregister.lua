-- An orderly end of a boot. KEYS: worker, workers, boots. ARGV: id, boot.
if redis.call('HGET', KEYS[1], 'b') == ARGV[2] then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[1])
end
redis.call('ZADD', KEYS[3], 'XX', 0, ARGV[2])
return 1
