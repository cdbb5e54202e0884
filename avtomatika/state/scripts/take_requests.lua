-- Lets up to so many requests go, or says how long the first has to wait (GCRA), in whole microseconds, which doubles hold exactly.
-- KEYS: the time at which the requests so far are paid for. ARGV: now, time of one request, time of a burst, all in microseconds; count.
-- Returns {how many go, microseconds to wait}.
local now, one, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local paid = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local go = math.min(tonumber(ARGV[4]), math.floor((now + burst - paid) / one))
if go < 1 then
  return {0, paid + one - now - burst}
end
paid = paid + go * one
-- A minute more than needed: the clock that counts is the callers', not this one's.
redis.call('SET', KEYS[1], string.format('%.0f', paid), 'PX', math.ceil((paid - now) / 1000) + 60000)
return {go, 0}
