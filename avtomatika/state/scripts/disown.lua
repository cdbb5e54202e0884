-- A live process says that it does not have in its hands what is claimed for it: from now on an ended boot has.
-- KEYS: claims of the boot, claims of the ended one, boots. ARGV: boot, ended boot, jobs {id -> control message key}, task ids, now.
-- What changed hands meanwhile is left alone. The first write is one that a full Redis refuses: then nothing was changed.
for id, message in pairs(cjson.decode(ARGV[3])) do
  local field = 'j:' .. id
  if redis.call('HGET', KEYS[1], field) == message then
    if redis.call('HGET', key('job', id), 'c') == ARGV[1] then
      redis.call('HSET', KEYS[2], field, message)
      redis.call('HSET', key('job', id), 'c', ARGV[2])
      redis.call('HDEL', key('job', id), 'cn')
      redis.call('ZADD', KEYS[3], 0, ARGV[2])
    end
    redis.call('HDEL', KEYS[1], field)
  end
end
for _, id in ipairs(cjson.decode(ARGV[4])) do
  local field = 't:' .. id
  local capability = redis.call('HGET', KEYS[1], field)
  if capability then
    local found = redis.call('HMGET', key('task', id), 'st', 'b', 'w', 'ty')
    if found[1] == 'claimed' and found[2] == ARGV[1] then
      redis.call('HSET', KEYS[2], field, capability)
      redis.call('HSET', key('task', id), 'b', ARGV[2])
      redis.call('HDEL', key('task', id), 'n')
      redis.call('ZADD', KEYS[3], 0, ARGV[2])
    end
    redis.call('HDEL', KEYS[1], field)
    if found[3] then
      slot_freed(found[3], found[4])
    end
  end
end
return outcome(tonumber(ARGV[5]))
