"""Kubernetes: what runs in a cluster. See docs/operations-kubernetes.md."""

from avtomatika.operations.k8s import create, deploy, execute, logs, objects, pods
from avtomatika.operations.k8s.cluster import family

__all__ = ["create", "deploy", "execute", "family", "logs", "objects", "pods"]
