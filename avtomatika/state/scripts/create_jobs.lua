-- Jobs come into being, each with the message that starts it: the most frequent commit by far, without the general one's generality.
-- ARGV: length of the stream, 1 where the stream tells the record; then for each job 14 words: nonce, version, status, record, id, client,
-- created at, event, key and body of the control message for the ledger, list and payload to push, or '' and the body for the outbox,
-- whose id is the nonce; of a listed blueprint (see listed.py) its name and the job's place among the live ones, else '' and 0.
-- Returns for each 1 when stored, 2 when this very call (by its nonce) was applied before, 0 when there is such a job.
local most, tells = ARGV[1], ARGV[2] == '1'

local function create(nonce, version, status, record, id, client, at, event, key, body, list, payload, blueprint, place)
  local job = NS .. ':job:' .. id
  if redis.call('EXISTS', job) == 1 then
    return redis.call('HGET', job, 'n') == nonce and 2 or 0
  end
  redis.call('HSET', job, 'v', version, 's', status, 'd', record, 'n', nonce)
  redis.call('ZADD', NS .. ':jobs', at, id)
  redis.call('ZADD', NS .. ':jobs:client:' .. client, at, id)
  redis.call('ZADD', NS .. ':jobs:status:' .. status, at, id)
  if blueprint ~= '' then
    for kind, score in pairs({of = at, live = place}) do
      redis.call('ZADD', NS .. ':jobs:' .. kind .. ':' .. blueprint, score, id)
      redis.call('ZADD', NS .. ':jobs:' .. kind .. ':' .. blueprint .. ':client:' .. client, score, id)
    end
  end
  local number = redis.call('RPUSH', job .. ':events', event)
  if tells then
    redis.call('XADD', NS .. ':events', 'MAXLEN', '~', most, '*', 'e', event, 'n', number, 'j', record)
  else
    redis.call('XADD', NS .. ':events', 'MAXLEN', '~', most, '*', 'e', event, 'n', number)
  end
  redis.call('HSET', NS .. ':ledger', key, body)
  redis.call('ZADD', NS .. ':ledger:at', at, key)
  if list ~= '' then
    redis.call('LPUSH', list, payload)
  else
    redis.call('HSET', NS .. ':outbox', nonce, payload)
    redis.call('ZADD', NS .. ':outbox:at', at, nonce)
  end
  return 1
end

local done = {}
for first = 3, #ARGV, 14 do
  done[#done + 1] = create(unpack(ARGV, first, first + 13))
end
return done
