"""The SDK's second home: the same declared tasks, pulled over HTTP from the facade instead of from a broker."""

from avtomatika.worker.http.config import Config, read_config
from avtomatika.worker.http.worker import HTTPWorker, work

__all__ = ["Config", "HTTPWorker", "read_config", "work"]
