-- An orderly end of a boot. KEYS: worker, workers, boots. ARGV: id, boot, now.
if redis.call('HGET', KEYS[1], 'b') == ARGV[2] then
  forget_worker(ARGV[1], tonumber(ARGV[3]))
end
redis.call('ZADD', KEYS[3], 'XX', 0, ARGV[2])
return outcome(tonumber(ARGV[3]))
