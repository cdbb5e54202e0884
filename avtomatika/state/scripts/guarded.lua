-- Runs a list of commands, all or none, if every guard holds.
-- KEYS: one key a guard; the first is the record that the change belongs to.
-- ARGV: JSON: [nonce, [[field, expected value or ''], ... one a guard], [[word, ...], ... the commands]].
-- Returns 1 when applied, 2 when this very call (by its nonce) was applied before, 0 when a guard does not hold.
local change = cjson.decode(ARGV[1])
local nonce, guards = change[1], change[2]
if redis.call('HGET', KEYS[1], 'n') == nonce then
  return 2
end
for g = 1, #KEYS do
  local found = redis.call('HGET', KEYS[g], guards[g][1]) or ''
  if found ~= guards[g][2] then
    return 0
  end
end
for _, command in ipairs(change[3]) do
  redis.call(unpack(command))
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'n', nonce)
end
return 1
