-- Forgets that tasks of a type wait for somebody to name it, if none does. KEYS: the type's set, set of types. ARGV: task type.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SREM', KEYS[2], ARGV[1])
end
return 1
