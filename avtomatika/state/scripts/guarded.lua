-- Runs a list of commands, all or none, if every guard holds.
-- KEYS: one key a guard; the first is the record that the change belongs to.
-- ARGV: JSON: [nonce, now, [[field, expected value or ''], ... one a guard], [[word, ...], ... the commands], mark, [attempt, ...]].
-- The mark is '', or a key that stays for a minute: a record that may be gone when the call is repeated cannot keep its nonce.
-- The attempts are a guard, too: no worker has begun one of them.
-- A command is Redis's own, or one of those below, whose names begin with @.
-- Returns {1, what the caller has to do now} when applied, {2} when this very call (by its nonce) was applied before, {0} when a guard
-- does not hold.
local change = cjson.decode(ARGV[1])
local nonce, now, guards = change[1], change[2], change[3]
local OWN = {}

OWN['@event'] = function(command)
  append_event(command[2], command[3], command[4], command[5])
end

OWN['@enter'] = function(command)
  enter(command[2], command[3], now)
end

-- A job comes to have a status: it is indexed by that one, and no longer by the one that is stored.
OWN['@status'] = function(command)
  local id, status = command[2], command[3]
  local before = redis.call('HGET', key('job', id), 's')
  if before ~= status then
    redis.call('ZADD', key('jobs', 'status', status), command[4], id)  -- first: a full Redis refuses this one, and so the whole
    if before then
      redis.call('ZREM', key('jobs', 'status', before), id)
    end
  end
end

OWN['@move'] = function(command)
  move(command[2], command[3], now)
end

OWN['@drop'] = function(command)
  drop(command[2], now)
end

OWN['@cancel'] = function(command)
  cancel(command[2], now)
end

-- Attempts of a fan-out that are still out are over.
OWN['@settle'] = function(command)
  local branches = command[2]
  if (redis.call('HGET', branches, '#left') or '0') == '0' then
    return
  end
  local rows = redis.call('HGETALL', branches)
  for i = 1, #rows, 2 do
    if string.sub(rows[i], 1, 1) ~= '#' and string.sub(rows[i + 1], -1) == '|' then
      drop(rows[i], now)
    end
  end
end

-- An attempt has ended well or badly: its leases and its slot are free.
OWN['@ended'] = function(command)
  local id, what = command[2], command[3]
  local found = redis.call('HMGET', key('task', id), 'lk', 'w', 'ty')
  end_leases(id, found[1])
  slot_freed(found[2], found[3])
  if what ~= '' then
    note_outcome(found[2], what, now)
  end
end

-- A claimed attempt is back in its queue.
OWN['@released'] = function(command)
  local id = command[2]
  local found = redis.call('HMGET', key('task', id), 'ty', 'tb', 'tc', 'd')
  local patience = cjson.decode(found[4]).dispatch_timeout_seconds
  if type(patience) == 'number' then -- it waits for a worker again
    redis.call('ZADD', key('timers'), seconds_of(now + patience), 'dispatch|' .. id)
  end
  if found[2] then
    redis.call('HSET', key('claims', found[2]), 'd:' .. id, found[3])
  else
    redis.call('SADD', key('queued', found[1]), id)
    tell({'task', found[1]})
  end
end

-- An assigned attempt waits for a pick again.
OWN['@unassign'] = function(command)
  local id, avoided = command[2], command[3]
  local task = key('task', id)
  local found = redis.call('HMGET', task, 'ty', 'ln', 'lm', 'sq', 'tb', 'tw', 'lk')
  local task_type, lane = found[1], found[2]
  redis.call('HDEL', key('claims', found[5]), 'd:' .. id)
  redis.call('HDEL', task, 'tb', 'tw', 'tc', 'fu')
  redis.call('HSET', task, 'st', 'waiting')
  redis.call('ZREM', key('unclaimed'), id)
  join_lane(id, task_type, lane, found[3], found[4])
  end_leases(id, found[7])
  if avoided ~= '' and redis.call('EXISTS', key('worker', found[6])) == 1 then
    redis.call('HSET', key('worker', found[6]), 'su', 1)
    reindex(found[6], false)
  else
    slot_freed(found[6], task_type)
  end
end

-- A delivery is due at a time, or, with '', no longer. Receivers are indexed by what is due first of theirs.
OWN['@due'] = function(command)
  local receiver, id, due = command[2], command[3], command[4]
  local theirs = key('deliveries', receiver)
  if due == '' then
    redis.call('ZREM', theirs, id)
  else
    redis.call('ZADD', theirs, due, id)
  end
  local first = redis.call('ZRANGE', theirs, 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', key('deliveries'), first[2], receiver)
  else
    redis.call('ZREM', key('deliveries'), receiver)
  end
end

local mark = change[5]
if redis.call('HGET', KEYS[1], 'n') == nonce or (mark ~= '' and redis.call('EXISTS', mark) == 1) then
  return {2}
end
for g = 1, #KEYS do
  local found = redis.call('HGET', KEYS[g], guards[g][1]) or ''
  if found ~= guards[g][2] then
    return {0}
  end
end
for _, id in ipairs(change[6]) do
  local state = redis.call('HGET', key('task', id), 'st')
  if state == 'claimed' or state == 'done' then
    return {0}
  end
end
for _, command in ipairs(change[4]) do
  local own = OWN[command[1]]
  if own then
    own(command)
  else
    redis.call(unpack(command))
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'n', nonce)
end
if mark ~= '' then
  redis.call('SET', mark, 1, 'EX', 60)
end
return {1, outcome(now)}
