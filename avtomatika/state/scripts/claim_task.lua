-- A worker claims an attempt.
-- KEYS: task, unclaimed, timers, claims of the boot. ARGV: worker, boot, now, default timeout, task id, nonce.
local record = redis.call('HMGET', KEYS[1], 'st', 'ts', 'x', 'n', 'to')
local state = record[1]
if not state or state == 'done' then
  return {'stale'}
end
if state == 'claimed' then
  if record[4] == ARGV[6] then
    return {'ok', record[5]}
  end
  return {'busy'}
end
if record[3] == '1' then
  return {'cancelled'}
end
local seconds = tonumber(record[2] or '') or tonumber(ARGV[4])
local timeout_at = string.format('%.3f', tonumber(ARGV[3]) + seconds)
redis.call('HSET', KEYS[1], 'st', 'claimed', 'w', ARGV[1], 'b', ARGV[2], 'ct', ARGV[3], 'to', timeout_at, 'n', ARGV[6])
redis.call('ZREM', KEYS[2], ARGV[5])
redis.call('ZREM', KEYS[3], 'dispatch|' .. ARGV[5])
redis.call('ZADD', KEYS[3], timeout_at, 'timeout|' .. ARGV[5])
redis.call('HSET', KEYS[4], 't:' .. ARGV[5], '')
return {'ok', timeout_at}
