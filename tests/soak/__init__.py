"""A soak: a whole installation under load and under faults, judged by the checker. `make soak`; see docs/soak.md."""
