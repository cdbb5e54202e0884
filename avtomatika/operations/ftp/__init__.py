"""FTP over TLS, and plain FTP where a policy allows it: transfers, lists, deletions."""

from avtomatika.operations.ftp import entries, transfers
from avtomatika.operations.ftp.family import family

__all__ = ["entries", "family", "transfers"]
