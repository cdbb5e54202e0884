-- Lanes: how tasks wait for their turn, and what goes when there is room. A lane belongs to a fairness key; kinds are q (for the queue
-- of the type), f (for a fleet's own queue) and p (for a pick).
--
-- lane:<type>:<lane>          ZSET task -> order;  lanes:<type>  HASH lane -> {k fairness key, q kind, l limits}
-- line:<kind>:<type>\n<key>   ZSET lane -> order of its first task: the lanes of a fairness key that are not parked
-- ready:<kind>:<type>         ZSET <seat><key> -> virtual time;  seats:<kind>:<type>  HASH key -> seat: equal times go by age
-- turns:<type>                ZSET fairness key -> virtual time;  served:<type>  that of the last one served
-- queued:<type>               SET of unclaimed tasks in the plain queue
-- parked                      HASH <type>\n<lane> -> spec of the limit that it waits for (name, count, seconds, a line each)
-- parked:<spec>               ZSET of those by the order of their parking;  specs:<name>  SET of specs;  parkings  SET of names
local BATCH = 16 -- lanes that are let try again at once
local TURNS = 1024 -- keys whose virtual time is kept
local KINDS = {'q', 'f', 'p'}
local OUT = {outbox = {}, picks = {}, stops = {}}
local TODO = {names = {}, types = {}} -- limits that have room again, task types of which a turn may have come
local SERVED = {} -- lanes of which a task has gone

local function lane_key(task_type, lane)
  return key('lane', task_type, lane)
end

local function ready_key(kind, task_type)
  return key('ready', kind, task_type)
end

local function line_key(kind, task_type, fairness_key)
  return key('line', kind, task_type .. '\n' .. fairness_key)
end

local function member_of(task_type, lane)
  return task_type .. '\n' .. lane
end

local function meta_of(task_type, lane)
  local body = redis.call('HGET', key('lanes', task_type), lane)
  return body and cjson.decode(body)
end

local function is_parked(task_type, lane)
  return redis.call('HEXISTS', key('parked'), member_of(task_type, lane)) == 1
end

local function note_pick(task_type)
  redis.call('SADD', key('picking'), task_type)
  OUT.picks[task_type] = true
end

-- Puts a lane to where its first task is among those of its key, and the key to its turn.
local function seat(task_type, lane, meta)
  local first = redis.call('ZRANGE', lane_key(task_type, lane), 0, 0, 'WITHSCORES')
  redis.call('ZADD', line_key(meta.q, task_type, meta.k), first[2], lane)
  local seats = key('seats', meta.q, task_type)
  if redis.call('HEXISTS', seats, meta.k) == 0 then
    local number = string.format('%016.0f', redis.call('INCR', key('sequence')))
    local own = tonumber(redis.call('ZSCORE', key('turns', task_type), meta.k) or 0)
    local served = tonumber(redis.call('GET', key('served', task_type)) or 0)
    redis.call('HSET', seats, meta.k, number)
    redis.call('ZADD', ready_key(meta.q, task_type), string.format('%.9f', math.max(own, served)), number .. meta.k)
  end
  if meta.q == 'p' then
    note_pick(task_type)
  end
end

local function unseat(task_type, lane, meta)
  local line, seats, ready = line_key(meta.q, task_type, meta.k), key('seats', meta.q, task_type), ready_key(meta.q, task_type)
  redis.call('ZREM', line, lane)
  if redis.call('EXISTS', line) == 1 then
    return
  end
  local number = redis.call('HGET', seats, meta.k)
  if number then
    redis.call('HDEL', seats, meta.k)
    redis.call('ZREM', ready, number .. meta.k)
  end
  if meta.q == 'p' and redis.call('EXISTS', ready) == 0 then
    redis.call('SREM', key('picking'), task_type)
  end
end

local function leave_parking(member)
  local spec = redis.call('HGET', key('parked'), member)
  if not spec then
    return
  end
  redis.call('HDEL', key('parked'), member)
  redis.call('ZREM', key('parked', spec), member)
  if redis.call('EXISTS', key('parked', spec)) == 0 then
    local name = limit_of(spec)[1]
    redis.call('SREM', key('specs', name), spec)
    if redis.call('EXISTS', key('specs', name)) == 0 then
      redis.call('SREM', key('parkings'), name)
    end
  end
end

local function park(task_type, lane, meta, limit, due)
  local member, name, spec = member_of(task_type, lane), limit[1], spec_of(limit)
  leave_parking(member)
  unseat(task_type, lane, meta)
  redis.call('HSET', key('parked'), member, spec)
  redis.call('ZADD', key('parked', spec), redis.call('INCR', key('sequence')), member)
  redis.call('SADD', key('specs', name), spec)
  redis.call('SADD', key('parkings'), name)
  if due then
    redis.call('ZADD', key('timers'), 'LT', seconds_of(due), 'limit|' .. name)
  end
end

-- After a task has left its lane: the lane closes, or its next task is its first.
local function shrunk(task_type, lane, meta)
  if redis.call('EXISTS', lane_key(task_type, lane)) == 1 then
    if not is_parked(task_type, lane) then
      seat(task_type, lane, meta)
    end
    return
  end
  leave_parking(member_of(task_type, lane))
  unseat(task_type, lane, meta)
  redis.call('HDEL', key('lanes', task_type), lane)
  if redis.call('EXISTS', key('lanes', task_type)) == 0 then
    redis.call('DEL', key('turns', task_type), key('served', task_type))
  end
end

local function join_lane(id, task_type, lane, body, order)
  redis.call('ZADD', lane_key(task_type, lane), order, id)
  redis.call('HSET', key('lanes', task_type), lane, body)
  if not is_parked(task_type, lane) then
    seat(task_type, lane, cjson.decode(body))
  end
end

local function leave_lane(id, task_type, lane)
  redis.call('ZREM', lane_key(task_type, lane), id)
  local meta = meta_of(task_type, lane)
  if meta then
    shrunk(task_type, lane, meta)
  end
end

-- The task's turn has come: its key moves on by its share.
local function serve(id, task_type, lane, meta, weight)
  local turns = key('turns', task_type)
  local served = tonumber(redis.call('GET', key('served', task_type)) or 0)
  local at = math.max(tonumber(redis.call('ZSCORE', turns, meta.k) or 0), served)
  local following = string.format('%.9f', at + 1 / weight)
  SERVED[member_of(task_type, lane)] = true
  redis.call('SET', key('served', task_type), string.format('%.9f', at))
  redis.call('ZADD', turns, following, meta.k)
  if redis.call('ZCARD', turns) > TURNS then
    redis.call('ZREMRANGEBYSCORE', turns, '-inf', at) -- who is not ahead of the last one served would start there anyway
    redis.call('ZREMRANGEBYRANK', turns, 0, -TURNS - 1)
  end
  redis.call('ZREM', lane_key(task_type, lane), id)
  shrunk(task_type, lane, meta)
  for _, kind in ipairs(KINDS) do
    local number = redis.call('HGET', key('seats', kind, task_type), meta.k)
    if number then
      redis.call('ZADD', ready_key(kind, task_type), 'XX', following, number .. meta.k)
    end
  end
end

-- The lane whose turn it is, and its meta.
local function next_lane(kind, task_type)
  local first = redis.call('ZRANGE', ready_key(kind, task_type), 0, 0)[1]
  local lane = first and redis.call('ZRANGE', line_key(kind, task_type, string.sub(first, 17)), 0, 0)[1]
  if lane then
    return lane, meta_of(task_type, lane)
  end
end

-- Messages -------------------------------------------------------------------------------------------------------------

-- A message that has waited, with the time at which it goes: whoever looks for lost ones compares those.
local function stamped(payload, now)
  local _, before = string.find(payload, '"avtomatika_at":%s*')
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
  tell({'task', task_type})
end

-- How many more tasks of a type may lie unclaimed in its queue.
local function queue_room(task_type)
  return 4 + 2 * redis.call('SCARD', key('known', task_type)) - redis.call('SCARD', key('queued', task_type))
end

local function go(id, task_type, lane, meta, now)
  local task = key('task', id)
  local found = redis.call('HMGET', task, 'ml', 'mp', 'pl', 'ts', 'wt', 'en')
  serve(id, task_type, lane, meta, tonumber(found[5]))
  take_leases(meta.l, id, now)
  if meta.q == 'f' or #meta.l == 0 then -- the others may be called back
    redis.call('HDEL', task, 'ml', 'mp', 'ln', 'lm')
  end
  if tonumber(found[6]) == now then
    redis.call('HDEL', task, 'en') -- it has not waited
  end
  dispatched(id, task_type, now, found[3], found[4])
  send(id, found[1], stamped(found[2], now), now)
end

-- Sends what waits for a queue of a task type, while there is room in it.
local function admit(task_type, now)
  if redis.call('EXISTS', ready_key('f', task_type), ready_key('q', task_type)) == 0 then
    return
  end
  for _, kind in ipairs({'f', 'q'}) do
    local room = kind == 'f' and math.huge or queue_room(task_type)
    while room > 0 do
      local lane, meta = next_lane(kind, task_type)
      if not lane then
        break
      end
      local limit, due = blocked(task_type, kind, meta.l, now)
      if limit then
        park(task_type, lane, meta, limit, due)
      else
        go(redis.call('ZRANGE', lane_key(task_type, lane), 0, 0)[1], task_type, lane, meta, now)
        room = room - 1
      end
    end
  end
end

-- Lets lanes try that wait for one limit, those that have waited longest first, while it has room. `mark`: who is parked later has tried.
-- Returns when to go on: a rate's time, or now where so many could go already and have not yet.
local function unpark_spec(spec, mark, now)
  local limit, parked, idle = limit_of(spec), key('parked', spec), 0
  while true do
    local full, due = is_full(limit, now)
    if full then
      return due
    end
    local members = redis.call('ZRANGE', parked, '-inf', mark, 'BYSCORE', 'LIMIT', 0, BATCH)
    if #members == 0 then
      return nil
    elseif idle >= BATCH then
      return now
    end
    local types = {}
    for _, member in ipairs(members) do
      local task_type, lane = string.match(member, '^(.-)\n(.*)$')
      leave_parking(member)
      seat(task_type, lane, meta_of(task_type, lane))
      types[#types + 1] = task_type
    end
    for _, task_type in ipairs(types) do -- in the order of their parking
      admit(task_type, now)
    end
    for _, member in ipairs(members) do
      local again = redis.call('HGET', key('parked'), member)
      if again and SERVED[member] then -- it waits behind those that did not go
        redis.call('ZADD', key('parked', again), redis.call('INCR', key('sequence')), member)
      elseif not again and not SERVED[member] then
        idle = idle + 1
      end
    end
  end
end

local function unpark(name, now)
  local timer = redis.call('ZSCORE', key('timers'), 'limit|' .. name)
  if timer and tonumber(timer) <= now then
    redis.call('ZREM', key('timers'), 'limit|' .. name) -- who still waits sets it anew
  end
  local mark = redis.call('INCR', key('sequence'))
  for _, spec in ipairs(redis.call('SMEMBERS', key('specs', name))) do
    local due = unpark_spec(spec, mark, now)
    if due and redis.call('EXISTS', key('parked', spec)) == 1 then
      redis.call('ZADD', key('timers'), 'LT', seconds_of(due), 'limit|' .. name)
    end
  end
end

-- What the caller has to do now, as JSON, or '' for nothing. First goes what can go after all that the script has changed.
local function outcome(now)
  for name in pairs(TODO.names) do
    unpark(name, now)
  end
  for task_type in pairs(TODO.types) do
    admit(task_type, now)
  end
  if #OUT.outbox == 0 and #OUT.stops == 0 and next(OUT.picks) == nil then
    return ''
  end
  local types = {}
  for task_type in pairs(OUT.picks) do
    types[#types + 1] = task_type
  end
  return cjson.encode({outbox = OUT.outbox, stops = OUT.stops, picks = types})
end
