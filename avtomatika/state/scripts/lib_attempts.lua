-- The life of an attempt: it waits or goes, is called back, is over.
local slot_freed, refuse -- in lib_fleet.lua

-- Ends what leases an attempt holds by its limits (JSON or nothing).
local function end_leases(id, body)
  for _, limit in ipairs(body and cjson.decode(body) or {}) do
    if limit[3] == 0 and end_lease(limit[1], id) then
      TODO.names[limit[1]] = true
    end
  end
end

-- Lets an attempt wait, or go at once. `place`: {t type, q kind, n lane, w lane where a worker is warm, k, wt, l limits, p priority,
-- m {list, payload} of the message or nothing, ts timeout of a plain Celery task}.
local function enter(id, place, now)
  local task, message = key('task', id), place.m or {'', ''}
  local kind, lane = place.q, place.n
  if place.w and redis.call('EXISTS', key('warm', place.t)) == 1 then
    kind, lane, message = 'p', place.w, {'', ''}
  end
  local body = cjson.encode({k = place.k, q = kind, l = place.l})
  local order, since = unpack(redis.call('HMGET', task, 'sq', 'en'))
  local limited, behind = #place.l > 0, waited_for(place.l)
  local goes = (kind == 'f' or kind == 'q' and queue_room(place.t) > 0) and redis.call('EXISTS', ready_key(kind, place.t)) == 0
  if goes and limited then
    goes = not behind and not blocked(place.t, kind, place.l, now)
  end
  if limited or not goes then
    order = order or string.format('%.0f', redis.call('INCR', key('sequence')) - place.p * 1e13)
    redis.call('HSET', task, 'sq', order, 'ln', lane, 'lm', body, 'wt', place.wt, 'ml', message[1], 'mp', message[2])
  end
  if goes then
    take_leases(place.l, id, now)
    dispatched(id, place.t, now, kind == 'f', place.ts)
    send(id, message[1], message[2], now)
    return
  end
  redis.call('HSET', task, 'st', 'waiting', 'en', since or now)
  join_lane(id, place.t, lane, body, order)
  if behind and not is_parked(place.t, lane) then -- nobody overtakes those who wait
    park(place.t, lane, meta_of(place.t, lane), behind)
    TODO.names[behind[1]] = true
  end
  TODO.types[place.t] = true
end

-- A waiting attempt leaves its lane, to wait otherwise.
local function move(id, place, now)
  local found = redis.call('HMGET', key('task', id), 'st', 'ln', 'ty')
  if found[1] == 'waiting' then
    leave_lane(id, found[3], found[2])
    redis.call('HDEL', key('task', id), 'ml', 'mp', 'ln', 'lm')
  end
  redis.call('SREM', key('unrouted', place.t), id)
  enter(id, place, now)
end

-- A limited attempt in the queue of a type that nobody knows any more waits in the store again, without its leases. Its message does
-- nothing until it goes once more.
local function call_back(id, task_type, now)
  local task = key('task', id)
  local found = redis.call('HMGET', task, 'st', 'lk', 'ln', 'lm', 'mp', 'sq')
  if found[1] ~= 'dispatched' or not found[2] or not found[5] then
    return
  end
  redis.call('SREM', key('queued', task_type), id)
  redis.call('ZREM', key('unclaimed'), id)
  redis.call('HSET', task, 'st', 'waiting', 'en', now)
  join_lane(id, task_type, found[3], found[4], found[6])
  end_leases(id, found[2])
  TODO.types[task_type] = true
end

-- Tells a process that is alive to stop an attempt.
local function tell_stop(worker, boot, id, job, now)
  local alive = redis.call('ZSCORE', key('boots'), boot)
  if alive and tonumber(alive) > now then
    redis.call('HSET', key('stops', boot), id, job or '')
    redis.call('EXPIRE', key('stops', boot), 86400)
    if redis.call('HGET', key('worker', worker), 'h') then
      tell({'stop', worker, id, job or ''})
    else
      OUT.stops[#OUT.stops + 1] = {worker, id}
    end
  end
end

-- An attempt is asked to stop. Nobody may begin it any more; one that runs goes on until its worker reports.
local function cancel(id, now)
  local task = key('task', id)
  local found = redis.call('HMGET', task, 'st', 'b', 'w', 'j')
  if not found[1] then
    return
  end
  redis.call('HSET', task, 'x', 1)
  if found[1] == 'claimed' then
    tell_stop(found[3], found[2], id, found[4], now)
  end
end

-- An attempt is over. The worker of a claimed one is to stop.
local function drop(id, now)
  local task = key('task', id)
  local found = redis.call('HMGET', task, 'st', 'ty', 'ln', 'b', 'w', 'tb', 'lk', 'tw', 'j')
  local state, task_type, boot = found[1], found[2], found[4]
  if state then
    redis.call('DEL', task)
    if found[6] then
      redis.call('HDEL', key('claims', found[6]), 'd:' .. id)
    end
    if state == 'waiting' and found[3] then
      leave_lane(id, task_type, found[3])
    elseif state == 'unrouted' then
      redis.call('SREM', key('unrouted', task_type), id)
    elseif state == 'claimed' then
      redis.call('HDEL', key('claims', boot), 't:' .. id)
      tell_stop(found[5], boot, id, found[9], now)
      refuse(found[5], boot, task_type)
    elseif found[8] then
      slot_freed(found[8], task_type)
    end
    redis.call('SREM', key('queued', task_type), id)
    end_leases(id, found[7])
    TODO.types[task_type] = true
  end
  redis.call('ZREM', key('unclaimed'), id)
  redis.call('ZREM', key('timers'), 'timeout|' .. id, 'dispatch|' .. id, 'cancel|' .. id)
end
