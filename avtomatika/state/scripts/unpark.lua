-- Lets lanes that wait for a limit try again. ARGV: limit key, now.
TODO.names[ARGV[1]] = true
return outcome(tonumber(ARGV[2]))
