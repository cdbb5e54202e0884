-- Takes an attempt off a month's count, never below none; once, however often the call is repeated.
-- KEYS: the month's count, a mark of this call.
if redis.call('SET', KEYS[2], 1, 'EX', 60, 'NX') and tonumber(redis.call('GET', KEYS[1]) or 0) > 0 then
  redis.call('DECR', KEYS[1])
end
return 1
