-- How tasks wait: lanes, limits, and what follows when one goes. Shared by the scripts that change tasks; NS is the namespace.
--
-- ready:q:<type>, ready:p:<type>  ZSET lane -> its key's virtual time: lanes for the queue, lanes for a pick
-- lanes:<type>                    HASH lane -> {k fairness key, w weight, q 'q' or 'p', l limits [[key, count, seconds or 0], ...]}
-- lane:<type>:<lane>              ZSET task -> order
-- turns:<type>                    HASH fairness key -> virtual time, #now: that of the last one served
-- queued:<type>                   SET of unclaimed tasks in the plain queue
-- parked                          HASH <type>\n<lane> -> limit key;  parked:<limit key>  ZSET of those by the order of their parking
-- lease:<limit key>               ZSET of tasks that hold a lease;  rate:<limit key>  ZSET of starts by their time
local UNPARK = 16
local OUT = {outbox = {}, picks = {}, stops = {}}
local SERVED = {} -- lanes of which a task has gone
local slot_freed -- in lib_fleet.lua

local function key(...)
  return table.concat({NS, ...}, ':')
end

local function ready_key(kind, task_type)
  return key('ready', kind, task_type)
end

local function seconds_of(now)
  return string.format('%.6f', now)
end

-- Limits ---------------------------------------------------------------------------------------------------------------

-- The first limit that is used up, and when a rate's time comes; nothing where all have room.
local function full_limit(limits, now)
  for _, limit in ipairs(limits) do
    local name, count, seconds = limit[1], limit[2], limit[3]
    if seconds > 0 then
      local starts = key('rate', name)
      local from = now - seconds
      local taken = redis.call('ZCOUNT', starts, '(' .. seconds_of(from), '+inf')
      if taken >= count then
        local first = redis.call('ZRANGE', starts, '(' .. seconds_of(from), '+inf', 'BYSCORE', 'LIMIT', taken - count, 1, 'WITHSCORES')
        return name, tonumber(first[2]) + seconds
      end
    elseif redis.call('ZCARD', key('lease', name)) >= count then
      return name
    end
  end
end

local function take_leases(limits, id, now)
  for _, limit in ipairs(limits) do
    local name, seconds = limit[1], limit[3]
    if seconds > 0 then
      local starts = key('rate', name)
      local kept = redis.call('GET', starts .. ':longest')
      local longest = math.max(seconds, tonumber(kept or 0))
      redis.call('ZREMRANGEBYSCORE', starts, '-inf', seconds_of(now - longest))
      redis.call('ZADD', starts, seconds_of(now), id .. ':' .. redis.call('INCR', key('sequence')))
      redis.call('EXPIRE', starts, math.ceil(longest) + 1)
      redis.call('SET', starts .. ':longest', longest, 'EX', math.ceil(longest) + 1)
    else
      redis.call('ZADD', key('lease', name), seconds_of(now), id)
      redis.call('SADD', key('leases'), name)
    end
  end
end

-- Lanes ----------------------------------------------------------------------------------------------------------------

local function note_pick(task_type)
  redis.call('SADD', key('picking'), task_type)
  OUT.picks[task_type] = true
end

local function make_ready(task_type, lane, meta)
  local turns = redis.call('HMGET', key('turns', task_type), meta.k, '#now')
  local own, last = tonumber(turns[1] or 0), tonumber(turns[2] or 0)
  redis.call('ZADD', ready_key(meta.q, task_type), string.format('%.9f', math.max(own, last)), lane)
  if meta.q == 'p' then
    note_pick(task_type)
  end
end

local function park(task_type, lane, meta, name, due, now)
  local member = task_type .. '\n' .. lane
  redis.call('ZREM', ready_key(meta.q, task_type), lane)
  redis.call('HSET', key('parked'), member, name)
  redis.call('ZADD', key('parked', name), redis.call('INCR', key('sequence')), member)
  if due then
    redis.call('ZADD', key('timers'), 'LT', seconds_of(due), 'limit|' .. name)
  end
  if meta.q == 'p' and redis.call('EXISTS', ready_key('p', task_type)) == 0 then
    redis.call('SREM', key('picking'), task_type)
  end
end

local function forget_turns(task_type)
  local turns = key('turns', task_type)
  if redis.call('EXISTS', key('lanes', task_type)) == 0 then
    redis.call('DEL', turns)
    return
  end
  local count = redis.call('HLEN', turns)
  if count < 256 or count % 64 ~= 0 then
    return
  end
  -- Who is not ahead of the last one served would start there anyway.
  local last = tonumber(redis.call('HGET', turns, '#now') or 0)
  local all = redis.call('HGETALL', turns)
  for i = 1, #all, 2 do
    if all[i] ~= '#now' and tonumber(all[i + 1]) <= last then
      redis.call('HDEL', turns, all[i])
    end
  end
end

local function close_if_empty(task_type, lane, kind)
  if redis.call('EXISTS', key('lane', task_type, lane)) == 1 then
    return false
  end
  local member = task_type .. '\n' .. lane
  local name = redis.call('HGET', key('parked'), member)
  if name then
    redis.call('HDEL', key('parked'), member)
    redis.call('ZREM', key('parked', name), member)
  end
  redis.call('ZREM', ready_key(kind, task_type), lane)
  redis.call('HDEL', key('lanes', task_type), lane)
  if kind == 'p' and redis.call('EXISTS', ready_key('p', task_type)) == 0 then
    redis.call('SREM', key('picking'), task_type)
  end
  forget_turns(task_type)
  return true
end

-- Takes a task out of the lane in which it waits.
local function leave_lane(id, task_type, lane)
  redis.call('ZREM', key('lane', task_type, lane), id)
  local body = redis.call('HGET', key('lanes', task_type), lane)
  if body then
    close_if_empty(task_type, lane, cjson.decode(body).q)
  end
end

-- The task's turn has come: its key moves on by its share.
local function serve(id, task_type, lane, meta)
  local turns = key('turns', task_type)
  SERVED[task_type .. '\n' .. lane] = true
  local served = redis.call('HMGET', turns, meta.k, '#now')
  local at = math.max(tonumber(served[1] or 0), tonumber(served[2] or 0))
  local following = at + 1 / meta.w
  redis.call('HSET', turns, '#now', string.format('%.9f', at), meta.k, string.format('%.9f', following))
  redis.call('ZREM', key('lane', task_type, lane), id)
  if not close_if_empty(task_type, lane, meta.q) then
    redis.call('ZADD', ready_key(meta.q, task_type), 'XX', string.format('%.9f', following), lane)
  end
end

-- The lane whose turn it is, and its meta. Scores may lag behind their keys, and are put right here.
local function next_lane(kind, task_type)
  local ready = ready_key(kind, task_type)
  while true do
    local first = redis.call('ZRANGE', ready, 0, 0, 'WITHSCORES')
    local lane = first[1]
    if not lane then
      return nil
    end
    local body = redis.call('HGET', key('lanes', task_type), lane)
    local meta = body and cjson.decode(body)
    local own = meta and redis.call('HGET', key('turns', task_type), meta.k)
    if not meta then
      redis.call('ZREM', ready, lane)
    elseif own and tonumber(own) > tonumber(first[2]) + 1e-6 then
      redis.call('ZADD', ready, own, lane)
    else
      return lane, meta
    end
  end
end

-- Messages -------------------------------------------------------------------------------------------------------------

-- A message that has waited, with the time at which it goes: whoever looks for lost ones compares those.
local function stamped(payload, now)
  local _, before = string.find(payload, '"avtomatika_at": ', 1, true)
  local after = before and string.find(payload, '[,}]', before)
  if not after then
    return payload
  end
  return string.sub(payload, 1, before) .. seconds_of(now) .. string.sub(payload, after)
end

-- Pushes a message to a list; with an empty one it goes to the outbox.
local function send(id, list, payload, now)
  if list ~= '' then
    redis.call('LPUSH', list, payload)
    return
  end
  local outbox_id = id .. ':' .. redis.call('INCR', key('sequence'))
  redis.call('HSET', key('outbox'), outbox_id, payload)
  redis.call('ZADD', key('outbox', 'at'), seconds_of(now), outbox_id)
  OUT.outbox[#OUT.outbox + 1] = outbox_id
end

local function dispatched(id, task_type, now, plain, timeout)
  redis.call('HSET', key('task', id), 'st', 'dispatched', 'at', now)
  if plain then
    if timeout then
      redis.call('ZADD', key('timers'), seconds_of(now + tonumber(timeout)), 'timeout|' .. id)
    end
    return
  end
  redis.call('ZADD', key('unclaimed'), now, id)
  redis.call('SADD', key('queued', task_type), id)
end

-- How many more tasks of a type may lie unclaimed in its queue.
local function queue_room(task_type)
  return 4 + 2 * redis.call('SCARD', key('known', task_type)) - redis.call('SCARD', key('queued', task_type))
end

-- Sends what waits for the queue of a task type, while there is room in it.
local function admit(task_type, now)
  if redis.call('EXISTS', ready_key('q', task_type)) == 0 then
    return
  end
  local room = queue_room(task_type)
  while room > 0 do
    local lane, meta = next_lane('q', task_type)
    if not lane then
      return
    end
    local id = redis.call('ZRANGE', key('lane', task_type, lane), 0, 0)[1]
    local full, due
    if id then
      full, due = full_limit(meta.l, now)
    end
    if not id then
      close_if_empty(task_type, lane, 'q')
    elseif full then
      park(task_type, lane, meta, full, due, now)
    else
      local found = redis.call('HMGET', key('task', id), 'ml', 'mp', 'pl', 'ts')
      serve(id, task_type, lane, meta)
      take_leases(meta.l, id, now)
      redis.call('HDEL', key('task', id), 'ml', 'mp', 'ln', 'lm')
      dispatched(id, task_type, now, found[3], found[4])
      send(id, found[1], stamped(found[2], now), now)
      if not found[3] then
        room = room - 1
      end
    end
  end
end

-- Lets lanes that wait for a limit try again.
local function unpark(name, now)
  local timer = redis.call('ZSCORE', key('timers'), 'limit|' .. name)
  if timer and tonumber(timer) <= now then
    redis.call('ZREM', key('timers'), 'limit|' .. name) -- who is parked again sets it anew
  end
  local parked = key('parked', name)
  local members = redis.call('ZRANGE', parked, 0, UNPARK - 1)
  local types = {}
  for _, member in ipairs(members) do
    redis.call('ZREM', parked, member)
    redis.call('HDEL', key('parked'), member)
    local task_type, lane = string.match(member, '^(.-)\n(.*)$')
    local body = redis.call('HGET', key('lanes', task_type), lane)
    if body then
      make_ready(task_type, lane, cjson.decode(body))
      types[#types + 1] = task_type
    end
  end
  local left = redis.call('ZCARD', parked)
  for _, task_type in ipairs(types) do
    admit(task_type, now)
  end
  for _, member in ipairs(members) do
    if SERVED[member] then -- it waits behind those that did not go
      redis.call('ZADD', parked, 'XX', redis.call('INCR', key('sequence')), member)
    end
  end
  -- One lease lets one go; a rate's time may have come for any number.
  if left > 0 and redis.call('ZCARD', parked) == left and redis.call('EXISTS', key('rate', name)) == 1 then
    unpark(name, now)
  end
end

-- Ends what leases an attempt holds by its limits (JSON or nothing).
local function end_leases(id, body, now)
  if not body then
    return
  end
  for _, limit in ipairs(cjson.decode(body)) do
    if limit[3] == 0 and redis.call('ZREM', key('lease', limit[1]), id) == 1 then
      if redis.call('EXISTS', key('lease', limit[1])) == 0 then
        redis.call('SREM', key('leases'), limit[1])
      end
      unpark(limit[1], now)
    end
  end
end

-- The life of an attempt -----------------------------------------------------------------------------------------------

-- Lets an attempt wait, or go at once. `place`: {t type, q kind, n lane, w lane where a worker is warm, k, wt, l limits, p priority,
-- m {list, payload} of the message or nothing, f 1 for a plain Celery task, ts its timeout}.
local function enter(id, place, now)
  local task = key('task', id)
  local kind, lane, message = place.q, place.n, place.m
  if place.w and redis.call('EXISTS', key('warm', place.t)) == 1 then
    kind, lane, message = 'p', place.w, nil
  end
  local ready = ready_key(kind, place.t)
  local parked = #place.l > 0 and redis.call('HEXISTS', key('parked'), place.t .. '\n' .. lane) == 1
  local room = kind == 'q' and (place.f or queue_room(place.t) > 0)
  if room and not parked and redis.call('EXISTS', ready) == 0 and not full_limit(place.l, now) then
    take_leases(place.l, id, now)
    dispatched(id, place.t, now, place.f, place.ts)
    send(id, message[1], message[2], now)
    return
  end
  local order, since = unpack(redis.call('HMGET', task, 'sq', 'en'))
  if not order then
    order = string.format('%.0f', redis.call('INCR', key('sequence')) - place.p * 1e13)
  end
  local meta = {k = place.k, w = place.wt, q = kind, l = place.l}
  local body = cjson.encode(meta)
  message = message or {'', ''}
  local waits = {'st', 'waiting', 'ln', lane, 'lm', body, 'sq', order, 'en', since or now, 'ml', message[1], 'mp', message[2]}
  redis.call('HSET', task, unpack(waits))
  redis.call('ZADD', key('lane', place.t, lane), order, id)
  redis.call('HSET', key('lanes', place.t), lane, body)
  if not parked and not redis.call('ZSCORE', ready, lane) then
    make_ready(place.t, lane, meta)
  elseif kind == 'p' and not parked then
    note_pick(place.t)
  end
  if room then
    admit(place.t, now)
  end
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

-- An attempt is over. The worker of a claimed one is to stop.
local function drop(id, now)
  local task = key('task', id)
  local found = redis.call('HMGET', task, 'st', 'ty', 'ln', 'b', 'w', 'tb', 'lk', 'tw')
  local state, task_type, boot = found[1], found[2], found[4]
  if state then
    redis.call('DEL', task)
    if state == 'waiting' then
      leave_lane(id, task_type, found[3])
    elseif state == 'unrouted' then
      redis.call('SREM', key('unrouted', task_type), id)
    elseif state == 'claimed' then
      redis.call('HDEL', key('claims', boot), 't:' .. id)
      local alive = redis.call('ZSCORE', key('boots'), boot)
      if alive and tonumber(alive) > now then
        redis.call('SADD', key('stops', boot), id)
        redis.call('EXPIRE', key('stops', boot), 86400)
        OUT.stops[#OUT.stops + 1] = {found[5], id}
      end
    end
    if found[6] then
      redis.call('HDEL', key('claims', found[6]), 'd:' .. id)
    end
    redis.call('SREM', key('queued', task_type), id)
    slot_freed(found[5] or found[8])
    end_leases(id, found[7], now)
    if state == 'dispatched' then
      admit(task_type, now)
    end
  end
  redis.call('ZREM', key('unclaimed'), id)
  redis.call('ZREM', key('timers'), 'timeout|' .. id, 'dispatch|' .. id)
end

-- What the caller has to do now, as JSON, or '' for nothing.
local function outcome()
  if #OUT.outbox == 0 and #OUT.stops == 0 and next(OUT.picks) == nil then
    return ''
  end
  local types = {}
  for task_type in pairs(OUT.picks) do
    types[#types + 1] = task_type
  end
  return cjson.encode({outbox = OUT.outbox, stops = OUT.stops, picks = types})
end
