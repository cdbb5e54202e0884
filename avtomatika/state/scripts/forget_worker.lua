-- Forgets a worker whose registration has expired. KEYS: worker. ARGV: id, now.
local expires = redis.call('HGET', KEYS[1], 'e')
if not expires or tonumber(expires) <= tonumber(ARGV[2]) then
  forget_worker(ARGV[1], tonumber(ARGV[2]))
end
return outcome(tonumber(ARGV[2]))
