"""kind: Kubernetes clusters in containers. See docs/operations-kubernetes.md."""

from avtomatika.operations.kind import clusters
from avtomatika.operations.kind.program import family

__all__ = ["clusters", "family"]
