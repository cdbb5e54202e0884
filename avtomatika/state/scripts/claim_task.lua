-- A worker claims an attempt, and the next ones of its type go to the queue.
-- KEYS: task, unclaimed, timers, claims of the boot. ARGV: worker, boot, now, default timeout, task id, nonce, capability.
local record = redis.call('HMGET', KEYS[1], 'st', 'ts', 'x', 'n', 'to', 'ty', 'tb')
local state, task_type, assigned = record[1], record[6], record[7]
if state == 'claimed' then
  if record[4] == ARGV[6] then
    return {'ok', record[5], ''}
  end
  return {'busy'}
end
if state ~= 'dispatched' or (assigned and assigned ~= ARGV[2]) then
  return {'stale'}
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
if assigned then
  redis.call('HDEL', KEYS[4], 'd:' .. ARGV[5])
else
  redis.call('SREM', key('queued', task_type), ARGV[5])
end
redis.call('HSET', KEYS[4], 't:' .. ARGV[5], ARGV[7])
admit(task_type, tonumber(ARGV[3]))
return {'ok', timeout_at, outcome()}
