"""Whether a cluster is ready: kind's exit code is 0 even where it has waited in vain, so the cluster itself is asked."""

from __future__ import annotations

from pathlib import Path

from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.k8s.cluster import Cluster, configuration_of
from avtomatika.operations.k8s.failures import judge

#: Seconds for its answer.
_ANSWER = 10.0


def nodes_ready(kubeconfig: Path, op: OperationContext) -> bool:
    """True where every node says that it is ready; False also where nobody answers, which the task's log then says."""
    try:
        cluster = Cluster(configuration_of(kubeconfig, None), op)
        try:
            with op.on_stop(cluster.break_off):
                nodes = cluster.call("GET", "/api/v1/nodes", seconds=_ANSWER).get("items") or []
        finally:
            cluster.close()
    except Exception as exc:
        op.checkpoint()
        why = exc if isinstance(exc, OperationError) else judge(exc)
        if why is None:
            raise
        op.log(f"whether the nodes are ready is not known: {why}")
        return False
    conditions = [(node.get("status") or {}).get("conditions") or () for node in nodes]
    ready = [any(item.get("type") == "Ready" and item.get("status") == "True" for item in items) for items in conditions]
    op.log(f"{sum(ready)} of {len(ready)} nodes are ready")
    return bool(ready) and all(ready)
