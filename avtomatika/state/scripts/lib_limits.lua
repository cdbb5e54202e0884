-- Limits: how many may run at once, how many may start in a time. Shared by the scripts that change tasks; NS is the namespace.
-- A limit is {name, count, seconds, or 0 for so many at once}.
--
-- lease:<name>   ZSET of tasks that hold a lease by when they took it;  leases  SET of the names
-- rate:<name>    ZSET of starts by their time;  window:<name>  the longest time that anybody asked it about
local function key(...)
  return table.concat({NS, ...}, ':')
end

-- A job's own list of events and the stream of all get one more; there it has its place in the list, and the record where one is given.
local function append_event(job_id, event, length, record)
  local place = redis.call('RPUSH', key('job', job_id, 'events'), event)
  local words = {'XADD', key('events'), 'MAXLEN', '~', length, '*', 'e', event, 'n', place}
  if record then
    words[#words + 1], words[#words + 2] = 'j', record
  end
  redis.call(unpack(words))
end

-- Tells the facades at once; whoever does not listen finds it out otherwise.
local function tell(news)
  redis.call('PUBLISH', key('news'), cjson.encode(news))
end

local function seconds_of(now)
  return string.format('%.6f', now)
end

local function nobody_knows(task_type)
  return redis.call('SCARD', key('known', task_type)) == 0
end

-- The first limit that is used up, and when a rate's time comes; nothing where all have room.
local function full_limit(limits, now)
  for _, limit in ipairs(limits) do
    local name, count, seconds = limit[1], limit[2], limit[3]
    if seconds > 0 then
      local starts, from = key('rate', name), '(' .. seconds_of(now - seconds)
      local taken = redis.call('ZCOUNT', starts, from, '+inf')
      if taken >= count then
        local first = redis.call('ZRANGE', starts, from, '+inf', 'BYSCORE', 'LIMIT', taken - count, 1, 'WITHSCORES')
        return limit, tonumber(first[2]) + seconds
      end
    elseif redis.call('ZCARD', key('lease', name)) >= count then
      return limit
    end
  end
end

-- The limit that keeps a task from going. What nobody can take holds no lease of others: where no live worker knows the type, a
-- limited task waits for one, as if for a limit; its name begins with a line's end, which no user's does.
local function blocked(task_type, kind, limits, now)
  if kind == 'q' and #limits > 0 and nobody_knows(task_type) then
    return {'\n' .. task_type, 0, 0}
  end
  return full_limit(limits, now)
end

local function spec_of(limit)
  return limit[1] .. '\n' .. limit[2] .. '\n' .. limit[3]
end

local function limit_of(spec)
  local name, count, seconds = string.match(spec, '^(.*)\n([^\n]*)\n([^\n]*)$')
  return {name, tonumber(count), tonumber(seconds)}
end

local function is_full(limit, now)
  if string.sub(limit[1], 1, 1) == '\n' then
    return nobody_knows(string.sub(limit[1], 2))
  end
  local full, due = full_limit({limit}, now)
  return full ~= nil, due
end

-- The first of these limits for which others wait already.
local function waited_for(limits)
  for _, limit in ipairs(limits) do
    if redis.call('EXISTS', key('specs', limit[1])) == 1 then
      return limit
    end
  end
end

local function take_leases(limits, id, now)
  for _, limit in ipairs(limits) do
    local name, seconds = limit[1], limit[3]
    if seconds > 0 then
      local starts, window = key('rate', name), key('window', name)
      local longest = math.max(seconds, tonumber(redis.call('GET', window) or 0))
      redis.call('ZREMRANGEBYSCORE', starts, '-inf', seconds_of(now - longest))
      redis.call('ZADD', starts, seconds_of(now), id .. ':' .. redis.call('INCR', key('sequence')))
      redis.call('EXPIRE', starts, math.ceil(longest) + 1)
      redis.call('SET', window, longest, 'EX', math.ceil(longest) + 1)
    else
      redis.call('ZADD', key('lease', name), seconds_of(now), id)
      redis.call('SADD', key('leases'), name)
    end
  end
end

-- Whether a task held a lease of this name, which it holds no longer.
local function end_lease(name, id)
  local lease = key('lease', name)
  if redis.call('ZREM', lease, id) == 0 then
    return false
  end
  if redis.call('EXISTS', lease) == 0 then
    redis.call('SREM', key('leases'), name)
  end
  return true
end
