-- Gives a task that waits for a pick to a worker.
-- KEYS: task, worker. ARGV: task id, boot, now, capability, ahead, list and payload of the message, decision, event, length of the
-- stream, nonce.
-- Returns {'ok', what to do now}, {'gone'}, {'full'} or {'limited'}.
local id, boot, now, capability = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local found = redis.call('HMGET', KEYS[1], 'st', 'ty', 'ln', 'lm', 'j', 'n', 'wt')
if found[6] == ARGV[11] then
  return {'ok', ''}
end
local meta = found[4] and cjson.decode(found[4])
if found[1] ~= 'waiting' or meta.q ~= 'p' then
  return {'gone'}
end
local worker = redis.call('HMGET', KEYS[2], 'b', 'l', 'e', 'h')
local worker_id = string.sub(KEYS[2], #key('worker', '') + 1)
if worker[1] ~= boot or tonumber(worker[3]) <= now then
  return {'full'}
end
local limits, task_type = cjson.decode(worker[2]), found[2]
local taken, all = taken_slots(boot)
local free = free_slots(limits, taken, all, capability)
if free <= -tonumber(ARGV[5]) then
  reindex(worker_id, false)
  return {'full'}
end
local limit, due = full_limit(meta.l, now)
if limit then
  park(task_type, found[3], meta, limit, due)
  return {'limited'}
end
serve(id, task_type, found[3], meta, tonumber(found[7]))
take_leases(meta.l, id, now)
redis.call('HSET', KEYS[1], 'tw', worker_id, 'tb', boot, 'tc', capability, 'fu', ARGV[8], 'n', ARGV[11], 'st', 'dispatched', 'at', now)
redis.call('ZADD', key('unclaimed'), now, id)
redis.call('HSET', key('claims', boot), 'd:' .. id, capability)
append_event(found[5], ARGV[9], ARGV[10])
if worker[4] then -- it asks a facade for it, which looks here
  tell({'worker', worker_id})
else
  send(id, ARGV[6], ARGV[7], now)
end
local turn = redis.call('INCR', key('sequence'))
redis.call('HSET', KEYS[2], 't:' .. task_type, turn)
if free <= 1 then
  reindex(worker_id, false)
else
  redis.call('ZADD', key('idle', 'turn', task_type), 'XX', turn, worker_id)
  note_load(worker_id, boot, task_type)
end
return {'ok', outcome(now)}
