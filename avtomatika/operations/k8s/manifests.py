"""Manifests: read, and asked what in them leads out of a pod."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.operations.k8s import cluster
from avtomatika.operations.policy import Permit
from avtomatika.results import JSON

#: Objects of one task, and bytes of a file.
MAX_OBJECTS, MAX_BYTES = 500, 16 * 1024**2


def read(path: Path) -> list[JSON]:
    """The objects of a YAML file with one or more documents. Raises OperationError where it is none."""
    import yaml

    try:
        if path.stat().st_size > MAX_BYTES:
            raise _misfit(f"{path} is larger than {MAX_BYTES} bytes")
        with path.open(encoding="utf-8") as file:
            found = [item for item in yaml.safe_load_all(file) if item is not None]
    except (OSError, UnicodeDecodeError) as exc:
        raise _misfit(f"{path} cannot be read on this worker: {getattr(exc, 'strerror', None) or exc}") from None
    except (yaml.YAMLError, ValueError) as exc:
        mark = getattr(exc, "problem_mark", None)
        raise _misfit(f"{path} is no YAML{f': line {mark.line + 1}' if mark else ''}") from None
    return found


def checked(objects: list[Any]) -> list[JSON]:
    """The objects, Lists taken apart. Raises OperationError for what is none."""
    found: list[JSON] = []
    for item in objects:
        if isinstance(item, dict) and str(item.get("kind", "")).endswith("List") and isinstance(item.get("items"), list):
            found += checked(item["items"])
        else:
            found.append(_checked(item))
    if not found or len(found) > MAX_OBJECTS:
        raise _misfit(f"there are {len(found)} objects in it: between 1 and {MAX_OBJECTS} may be")
    return found


def _checked(item: Any) -> JSON:
    if not isinstance(item, dict):
        raise _misfit("a manifest is an object with apiVersion, kind and metadata")
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    for field, value, kind in (
        ("apiVersion", item.get("apiVersion"), cluster.ApiVersion),
        ("kind", item.get("kind"), cluster.Kind),
        ("metadata.name", name, cluster.AnyName),
        ("metadata.namespace", "default" if namespace is None else namespace, cluster.Label),
    ):
        if not isinstance(value, str) or re.fullmatch(get_args(kind)[1].pattern.strip("^$"), value) is None:
            raise _misfit(f"a manifest's {field} is {value!r}, which does not fit")
    return item


def namespace_of(item: JSON, default: str) -> str:
    return str(item["metadata"].get("namespace") or default)


def allow(item: JSON, default_namespace: str, permit: Permit) -> None:
    """Raises PolicyError for an object whose namespace, kind or pods the policy does not allow."""
    kind = item["kind"]
    permit.matches("namespaces", item["metadata"]["name"] if kind == "Namespace" else namespace_of(item, default_namespace))
    if permit.option("kinds") is not None:
        permit.matches("kinds", kind)
    for name in way_out(item):
        permit.matches("pod_options", name)


def allow_across(item: JSON, resource: cluster.Resource, permit: Permit) -> None:
    """The same for a kind that belongs to no namespace: it concerns the whole cluster."""
    if not resource.namespaced and item["kind"] != "Namespace":
        permit.matches("cluster_kinds", item["kind"])


def refuse_secrets(objects: list[JSON]) -> None:
    """Parameters are stored, and shown to whoever may see the task: a Secret's values have no place in them."""
    for item in objects:
        if item.get("kind") == "Secret" and (item.get("data") or item.get("stringData")):
            raise PolicyError(
                "a Secret with its values is not taken as a parameter, since parameters are stored: put it into a file of the "
                "worker, and name that in manifest_file"
            )


def way_out(value: Any) -> Iterator[str]:
    """What in pods, wherever in an object they are described, leads out of them; as the policy's ``pod_options`` names it."""
    if isinstance(value, list):
        for item in value:
            yield from way_out(item)
    if not isinstance(value, dict):
        return
    if isinstance(value.get("containers"), list):
        yield from _of_pod(value)
    for item in value.values():
        yield from way_out(item)


def _of_pod(spec: JSON) -> Iterator[str]:
    for field, name in (("hostNetwork", "host_network"), ("hostPID", "host_pid"), ("hostIPC", "host_ipc")):
        if spec.get(field):
            yield name
    for volume in _objects(spec.get("volumes")):
        if "hostPath" in volume:
            yield f"host_path:{_object(volume['hostPath']).get('path', '')}"
    for group in ("containers", "initContainers", "ephemeralContainers"):
        for container in _objects(spec.get(group)):
            yield from _of_container(container)


def _of_container(container: JSON) -> Iterator[str]:
    context = _object(container.get("securityContext"))
    if context.get("privileged"):
        yield "privileged"
    added = _object(context.get("capabilities")).get("add")
    yield from (f"cap_add:{capability}" for capability in (added if isinstance(added, list) else ()))
    for port in _objects(container.get("ports")):
        if port.get("hostPort"):
            yield f"host_port:{port['hostPort']}"


def _object(value: Any) -> JSON:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[JSON]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _misfit(text: str) -> OperationError:
    return OperationError(TaskErrorCode.VALIDATION_INVALID_PARAMS, text)
