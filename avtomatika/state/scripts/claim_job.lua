-- Loads a job and claims it for a process.
-- KEYS: job, boots. ARGV: boot, now, version or '', prefix of claims keys, job id, control message key, nonce.
local record = redis.call('HMGET', KEYS[1], 'v', 's', 'd', 'c', 'cn')
local version, status, held = record[1], record[2], record[4]
if not version or (ARGV[3] ~= '' and version ~= ARGV[3]) then
  return {'stale'}
end
if status == 'finished' or status == 'failed' or status == 'cancelled' or status == 'quarantined' then
  return {'stale'}
end
if held and record[5] ~= ARGV[7] then
  local expires = redis.call('ZSCORE', KEYS[2], held)
  if held == ARGV[1] or (expires and tonumber(expires) > tonumber(ARGV[2])) then
    return {'busy'}
  end
  redis.call('HDEL', ARGV[4] .. held, 'j:' .. ARGV[5])
end
redis.call('HSET', KEYS[1], 'c', ARGV[1], 'cn', ARGV[7])
redis.call('HSET', ARGV[4] .. ARGV[1], 'j:' .. ARGV[5], ARGV[6])
-- A boot that was forgotten counts as dead: the housekeeping has to find its claim.
redis.call('ZADD', KEYS[2], 'NX', ARGV[2], ARGV[1])
return {'ok', record[3]}
