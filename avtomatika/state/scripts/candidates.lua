-- Workers for a task. ARGV: task type, order or '' for all that know it, now, offset, count, seed.
-- Returns {known, idle, warm, 1 where there is another page, rows of {record, free, taken, reputation, turn, 1 where warm, 1 where idle}}.
local task_type, order, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local offset, count = tonumber(ARGV[4]), tonumber(ARGV[5])
local known = key('known', task_type)
local capability = pinned(task_type)
local ids, total = {}, 0

-- The workers from rank `from` on, `many` of them, as if the ties at the head were turned by the seed.
local function page(index, from, many)
  local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
  if not first[1] then
    return {}
  end
  local ties = redis.call('ZCOUNT', index, first[2], first[2])
  local turn = tonumber(ARGV[6]) % ties
  local out = {}
  for rank = from, math.min(from + many, total) - 1 do
    local place = rank < ties and (rank + turn) % ties or rank
    out[#out + 1] = redis.call('ZRANGE', index, place, place)[1]
  end
  return out
end

if order == '' then
  ids = redis.call('SMEMBERS', known)
else
  local index = key('idle', order, task_type)
  total = redis.call('ZCARD', index)
  ids = page(index, offset, count)
end
local rows = {}
for _, id in ipairs(ids) do
  local found = redis.call('HMGET', key('worker', id), 'd', 'b', 'l', 'e', 't:' .. task_type)
  if found[1] and tonumber(found[4]) > now then
    local taken, all = taken_slots(found[2])
    local free = free_slots(cjson.decode(found[3]), taken, all, capability)
    local warm = redis.call('ZSCORE', key('warm', task_type), id) and 1 or 0
    local idle = redis.call('ZSCORE', key('idle', 'cost', task_type), id) and 1 or 0
    rows[#rows + 1] = {found[1], tostring(free), all, tostring(reputation_of(id)), tonumber(found[5] or 0), warm, idle}
  elseif not found[1] then
    redis.call('SREM', known, id)
    redis.call('ZREM', key('warm', task_type), id)
    unindex_task(id, task_type)
  else
    unindex(id)
  end
end
local more = order ~= '' and offset + count < total and 1 or 0
return {redis.call('SCARD', known), redis.call('ZCARD', key('idle', 'cost', task_type)), redis.call('ZCARD', key('warm', task_type)), more, rows}
