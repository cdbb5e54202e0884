-- An HTTP worker with what it holds. KEYS: worker. ARGV: now.
-- Returns {record, claims, handing with their times}, or nothing.
local found = redis.call('HMGET', KEYS[1], 'd', 'b', 'e', 'h')
if not found[4] or tonumber(found[3]) <= tonumber(ARGV[1]) then
  return {}
end
local claims = redis.call('HGETALL', key('claims', found[2]))
local handing, open = redis.call('ZRANGE', key('handing', found[2]), 0, -1, 'WITHSCORES'), {}
for i = 1, #handing, 2 do
  if redis.call('HEXISTS', key('claims', found[2]), 't:' .. handing[i]) == 1 then
    open[#open + 1] = handing[i]
    open[#open + 1] = handing[i + 1]
  else
    redis.call('ZREM', key('handing', found[2]), handing[i])
  end
end
return {found[1], claims, open}
