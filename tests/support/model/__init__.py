"""A model of the engine for random tests: programs to run, processes that die at any await, and what must always hold."""
