-- Counts an attempt of a month, where there is one left; once, however often the call is repeated.
-- KEYS: the month's count, a mark of this call. ARGV: how many there are, time to live in ms.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 1
end
if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[2], 1, 'EX', 60)
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
