"""Benchmarks: ratios in one run, on whatever machine this is. `make bench` runs all of them."""
