"""Network: is a host there, does it answer, and how well over a while."""

from avtomatika.operations.network import monitor, scan, test
from avtomatika.operations.network.family import family

__all__ = ["family", "monitor", "scan", "test"]
