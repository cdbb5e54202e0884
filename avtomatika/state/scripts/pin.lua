-- Pins task -> capability at first sight, all or nothing. KEYS: pins. ARGV: task, capability or '', ...
-- Returns {'conflict', task, pinned} or {'ok', task, capability, ...}.
local out = {'ok'}
for i = 1, #ARGV, 2 do
  local task, wanted = ARGV[i], ARGV[i + 1]
  local pinned = redis.call('HGET', KEYS[1], task)
  if pinned and wanted ~= '' and wanted ~= pinned then
    return {'conflict', task, pinned}
  end
  out[#out + 1] = task
  out[#out + 1] = pinned or (wanted ~= '' and wanted) or task
end
for i = 2, #out, 2 do
  redis.call('HSETNX', KEYS[1], out[i], out[i + 1])
end
return out
