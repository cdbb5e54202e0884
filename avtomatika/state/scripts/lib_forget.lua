-- Forgets an ended job with every index that it is in. `listed`: names of the blueprints whose jobs have indexes of their own.
local function forget(id, status, client, listed)
  local job = NS .. ':job:' .. id
  redis.call('UNLINK', job, job .. ':events', job .. ':branches', job .. ':log')
  redis.call('ZREM', NS .. ':jobs', id)
  redis.call('ZREM', NS .. ':jobs:client:' .. client, id)
  redis.call('ZREM', NS .. ':jobs:status:' .. status, id)
  for _, name in ipairs(listed) do
    redis.call('ZREM', NS .. ':jobs:of:' .. name, id)
    redis.call('ZREM', NS .. ':jobs:of:' .. name .. ':client:' .. client, id)
  end
end
