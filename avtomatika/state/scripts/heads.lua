-- The first task of each lane that waits for a pick, in the order of their turns: the first lane of each fairness key, then each one's
-- second, so that no key with many lanes keeps others out of sight. ARGV: task type, how many lanes.
local task_type, count = ARGV[1], tonumber(ARGV[2])
local members = redis.call('ZRANGE', ready_key('p', task_type), 0, count - 1)
local out, depth = {}, 0
while #members > 0 and #out < count do
  local deeper = {}
  for _, member in ipairs(members) do
    local lane = redis.call('ZRANGE', line_key('p', task_type, string.sub(member, 17)), depth, depth)[1]
    local id = lane and redis.call('ZRANGE', lane_key(task_type, lane), 0, 0)[1]
    if id and #out < count then
      out[#out + 1] = redis.call('HGETALL', key('task', id))
      deeper[#deeper + 1] = member
    end
  end
  members, depth = deeper, depth + 1
end
return out
