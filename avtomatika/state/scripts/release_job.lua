-- Gives a claim on a job back if this boot holds it. KEYS: job, claims of the boot. ARGV: boot, job id.
redis.call('HDEL', KEYS[2], 'j:' .. ARGV[2])
if redis.call('HGET', KEYS[1], 'c') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'c', 'cn')
  return 1
end
return 0
