-- A job comes into being, with the message that starts it: the most frequent commit by far, without the general one's generality.
-- KEYS: job. ARGV: nonce, version, status, record, id, client, created at, event, length of the stream, key and body of the control message
-- for the ledger, list and payload to push, or '' and the body for the outbox, whose id is the nonce; 1 where the stream tells the record.
-- 15, 16: of a listed blueprint (see listed.py) its name and the job's place among the live ones; else '' and 0.
-- Returns 1 when stored, 2 when this very call (by its nonce) was applied before, 0 when there is such a job.
local id, at = ARGV[5], ARGV[7]
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HGET', KEYS[1], 'n') == ARGV[1] and 2 or 0
end
redis.call('HSET', KEYS[1], 'v', ARGV[2], 's', ARGV[3], 'd', ARGV[4], 'n', ARGV[1])
redis.call('ZADD', NS .. ':jobs', at, id)
redis.call('ZADD', NS .. ':jobs:client:' .. ARGV[6], at, id)
redis.call('ZADD', NS .. ':jobs:status:' .. ARGV[3], at, id)
if ARGV[15] ~= '' then
  for kind, score in pairs({of = at, live = ARGV[16]}) do
    redis.call('ZADD', NS .. ':jobs:' .. kind .. ':' .. ARGV[15], score, id)
    redis.call('ZADD', NS .. ':jobs:' .. kind .. ':' .. ARGV[15] .. ':client:' .. ARGV[6], score, id)
  end
end
local place = redis.call('RPUSH', KEYS[1] .. ':events', ARGV[8])
if ARGV[14] == '1' then
  redis.call('XADD', NS .. ':events', 'MAXLEN', '~', ARGV[9], '*', 'e', ARGV[8], 'n', place, 'j', ARGV[4])
else
  redis.call('XADD', NS .. ':events', 'MAXLEN', '~', ARGV[9], '*', 'e', ARGV[8], 'n', place)
end
redis.call('HSET', NS .. ':ledger', ARGV[10], ARGV[11])
redis.call('ZADD', NS .. ':ledger:at', at, ARGV[10])
if ARGV[12] ~= '' then
  redis.call('LPUSH', ARGV[12], ARGV[13])
else
  redis.call('HSET', NS .. ':outbox', ARGV[1], ARGV[13])
  redis.call('ZADD', NS .. ':outbox:at', at, ARGV[1])
end
return 1
