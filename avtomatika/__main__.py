"""`python -m avtomatika` is the command line."""

from avtomatika.cli.main import main

main()
