-- The fleet: which workers are idle for which tasks. An index for picks, and only a hint: `assign` counts slots anew.
--
-- known:<type>         SET of live workers that declare the task;  warm:<type>  ZSET of those that hold its models, by cost
-- idle:<order>:<type>  ZSET of the idle ones, by cost, load, value, turn, and warm (warm ones only, by cost)
-- worker:<id>          b boot, d record, l slots {capability -> limit, # over all}, e expires, at seen, ix indexed tasks, no tasks that it does
--                      not take although it has a slot, fl set while some capability is full, su set while it is not trusted, t:<type> turn
local ORDERS = {'cost', 'load', 'value', 'turn', 'warm'}

local function pinned(task_type)
  return redis.call('HGET', key('pins'), task_type) or task_type
end

-- Slots taken of each capability, and in all: claimed and assigned.
local function taken_slots(boot)
  local taken, all = {}, 0
  local claims = redis.call('HGETALL', key('claims', boot))
  for i = 1, #claims, 2 do
    local kind = string.sub(claims[i], 1, 2)
    if kind == 't:' or kind == 'd:' then
      local capability = claims[i + 1]
      taken[capability] = (taken[capability] or 0) + 1
      all = all + 1
    end
  end
  return taken, all
end

local function free_slots(limits, taken, all, capability)
  local over_all = limits['#'] or 0
  local limit = limits[capability] or (over_all > 0 and over_all or 1e9)
  local free = limit - (taken[capability] or 0)
  if over_all > 0 then
    free = math.min(free, over_all - all)
  end
  return free
end

local function unindex_task(id, task_type)
  for _, order in ipairs(ORDERS) do
    redis.call('ZREM', key('idle', order, task_type), id)
  end
end

local function indexed_tasks(id)
  local indexed = redis.call('HGET', key('worker', id), 'ix')
  return indexed and cjson.decode(indexed) or {}
end

local function unindex(id)
  for _, task_type in ipairs(indexed_tasks(id)) do
    redis.call('SREM', key('known', task_type), id)
    redis.call('ZREM', key('warm', task_type), id)
    unindex_task(id, task_type)
  end
end

local function reputation_of(id)
  local body = redis.call('GET', key('reputation', id))
  return body and cjson.decode(body).value or 1
end

local function list_set(list)
  local set = {}
  for _, item in ipairs(type(list) == 'table' and list or {}) do
    set[item] = true
  end
  return set
end

-- Puts a worker into the indexes anew. `refused`: tasks that it does not take although it has slots; nothing keeps what is known.
local function reindex(id, reported)
  local worker = key('worker', id)
  local found = redis.call('HMGET', worker, 'd', 'b', 'l', 'su', 'no')
  if not found[1] then
    return
  end
  local record, limits = cjson.decode(found[1]), cjson.decode(found[3])
  local taken, all = taken_slots(found[2])
  local supported, refused, full = list_set(record.supported_tasks), {}, false
  local known_refused = list_set(not reported and found[5] and cjson.decode(found[5]) or {})
  local costs, reputation = record.cost_per_skill or {}, reputation_of(id)
  local hot = list_set(record.hot_cache)
  unindex(id)
  for _, task_type in ipairs(record.tasks) do
    local cost = tonumber(costs[task_type]) or tonumber(record.cost_per_second) or 0
    local models = (record.skill_dependencies or {})[task_type] or {}
    local warm = #models > 0
    for _, model in ipairs(models) do
      warm = warm and hot[model] or false
    end
    redis.call('SADD', key('known', task_type), id)
    if warm then
      redis.call('ZADD', key('warm', task_type), cost, id)
    end
    local free = free_slots(limits, taken, all, pinned(task_type)) > 0
    full = full or not free
    local refuses = known_refused[task_type]
    if reported then
      refuses = free and (record.status ~= 'idle' or not supported[task_type])
    end
    if refuses then
      refused[#refused + 1] = task_type
    elseif free and not found[4] then
      redis.call('ZADD', key('idle', 'cost', task_type), cost, id)
      redis.call('ZADD', key('idle', 'load', task_type), all, id)
      redis.call('ZADD', key('idle', 'value', task_type), cost / math.max(reputation, 0.001), id)
      redis.call('ZADD', key('idle', 'turn', task_type), redis.call('HGET', worker, 't:' .. task_type) or 0, id)
      if warm then
        redis.call('ZADD', key('idle', 'warm', task_type), cost, id)
      end
    end
  end
  redis.call('HSET', worker, 'ix', cjson.encode(record.tasks))
  if #refused > 0 then
    redis.call('HSET', worker, 'no', cjson.encode(refused))
  else
    redis.call('HDEL', worker, 'no')
  end
  if full then
    redis.call('HSET', worker, 'fl', 1)
  else
    redis.call('HDEL', worker, 'fl')
  end
end

-- How much a worker has in its hands, for those that look for the least busy one. Its other tasks follow with its next record.
local function note_load(id, boot, task_type)
  redis.call('ZADD', key('idle', 'load', task_type), 'XX', redis.call('HLEN', key('claims', boot)), id)
end

-- A slot is free again; only a worker that was full has to be put back.
function slot_freed(id, task_type)
  local found = redis.call('HMGET', key('worker', id), 'fl', 'b')
  if found[1] then
    reindex(id, false)
  elseif found[2] then
    note_load(id, found[2], task_type)
  end
end

-- An attempt is over that its worker has not ended: until its next record nobody knows whether the slot is free.
function refuse(id, boot, task_type)
  local found = redis.call('HMGET', key('worker', id), 'b', 'no')
  if found[1] ~= boot then
    return
  end
  local refused, capability = found[2] and cjson.decode(found[2]) or {}, pinned(task_type)
  for _, other in ipairs(indexed_tasks(id)) do
    if pinned(other) == capability then
      refused[#refused + 1] = other
    end
  end
  redis.call('HSET', key('worker', id), 'no', cjson.encode(refused))
  reindex(id, false)
end

-- Forgets a worker. What only it knew and what holds leases of others is called back out of the queue.
local function forget_worker(id, now)
  local tasks = indexed_tasks(id)
  unindex(id)
  redis.call('DEL', key('worker', id))
  redis.call('SREM', key('workers'), id)
  for _, task_type in ipairs(tasks) do
    if nobody_knows(task_type) then
      for _, waiting in ipairs(redis.call('SMEMBERS', key('queued', task_type))) do
        call_back(waiting, task_type, now)
      end
    end
  end
end

local function note_outcome(id, what, now)
  local outcomes = key('outcomes', id)
  redis.call('RPUSH', outcomes, string.format('%.3f ', now) .. what)
  redis.call('LTRIM', outcomes, -200, -1)
  redis.call('EXPIRE', outcomes, 604800)
end
