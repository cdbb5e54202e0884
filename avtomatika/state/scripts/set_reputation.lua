-- Keeps a worker's reputation for a week. KEYS: reputation. ARGV: worker id, reputation.
redis.call('SET', KEYS[1], ARGV[2], 'EX', 604800)
reindex(ARGV[1], false)
return 1
