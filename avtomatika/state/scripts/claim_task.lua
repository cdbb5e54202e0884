-- A worker claims an attempt, and the next ones of its type go to the queue.
-- KEYS: task, unclaimed, timers, claims of the boot. ARGV: worker, boot, now, default timeout, task id, nonce, capability, 1 where a
-- facade claims it to hand it over.
local FORGOTTEN_SECONDS = 60
local record = redis.call('HMGET', KEYS[1], 'st', 'ts', 'x', 'n', 'to', 'ty', 'tb', 'lk')
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
if ARGV[8] == '1' then
  local worker = redis.call('HMGET', key('worker', ARGV[1]), 'b', 'e', 'l')
  if worker[1] ~= ARGV[2] or tonumber(worker[2]) <= tonumber(ARGV[3]) then
    return {'gone'}
  end
  local taken, all = taken_slots(ARGV[2])
  if not assigned and free_slots(cjson.decode(worker[3]), taken, all, ARGV[7]) < 1 then
    return {'full'}
  end
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
  if record[8] then
    redis.call('HDEL', KEYS[1], 'ml', 'mp', 'ln', 'lm')
  end
end
redis.call('HSET', KEYS[4], 't:' .. ARGV[5], ARGV[7])
if ARGV[8] == '1' then
  redis.call('ZADD', key('handing', ARGV[2]), ARGV[3], ARGV[5])
end
-- A process that was silent for too long, and forgotten, is alive: its next heartbeat says so, or its claims are given out again.
redis.call('ZADD', key('boots'), 'NX', tonumber(ARGV[3]) + FORGOTTEN_SECONDS, ARGV[2])
note_load(ARGV[1], ARGV[2], task_type)
TODO.types[task_type] = true
return {'ok', timeout_at, outcome(tonumber(ARGV[3]))}
