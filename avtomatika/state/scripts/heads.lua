-- The first task of each lane that waits for a pick, in the order of their turns. ARGV: task type, how many lanes.
local out = {}
local lane = next_lane('p', ARGV[1]) -- puts the first one right; the others may lag a little behind their keys
local lanes = lane and redis.call('ZRANGE', ready_key('p', ARGV[1]), 0, tonumber(ARGV[2]) - 1) or {}
for _, name in ipairs(lanes) do
  local id = redis.call('ZRANGE', key('lane', ARGV[1], name), 0, 0)[1]
  if id then
    out[#out + 1] = redis.call('HGETALL', key('task', id))
  end
end
return out
