-- Runs a list of commands, all or none, if every guard holds.
-- KEYS: one key a guard; the first is the record that the change belongs to.
-- ARGV: nonce, then (field, expected value) a guard, '' meaning absent; then the commands, each as: count, word, word, ...
-- Returns 1 when applied, 2 when this very call (by its nonce) was applied before, 0 when a guard does not hold.
local nonce = ARGV[1]
if redis.call('HGET', KEYS[1], 'n') == nonce then
  return 2
end
for g = 1, #KEYS do
  local found = redis.call('HGET', KEYS[g], ARGV[2 * g]) or ''
  if found ~= ARGV[2 * g + 1] then
    return 0
  end
end
local i = 2 * #KEYS + 2
while i <= #ARGV do
  local count = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + count))
  i = i + count + 1
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'n', nonce)
end
return 1
