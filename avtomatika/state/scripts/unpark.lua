-- Lets lanes that wait for a limit try again. ARGV: limit key, now.
unpark(ARGV[1], tonumber(ARGV[2]))
return outcome()
