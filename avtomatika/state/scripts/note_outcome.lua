-- Adds an outcome to what a worker's reputation is made of. ARGV: worker id, outcome, now.
note_outcome(ARGV[1], ARGV[2], tonumber(ARGV[3]))
return 1
