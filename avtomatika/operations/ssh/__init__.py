"""SSH and SCP: commands, transfers and tunnels on remote machines."""

from __future__ import annotations

from avtomatika.operations.ssh import execute, scp_list, scp_sync, scp_transfer, tunnel  # noqa: F401 - they declare their operations
from avtomatika.operations.ssh._family import family

__all__ = ["family"]
