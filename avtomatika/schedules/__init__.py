"""Jobs that are made by the clock: what a schedule says, when it is due, and where it is written."""
