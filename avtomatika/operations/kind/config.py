"""A cluster's configuration: read, and held to what the policy allows. https://kind.sigs.k8s.io/docs/user/configuration/"""

from __future__ import annotations

import copy
from ipaddress import ip_address
from typing import Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.results import JSON

LOOPBACK = "127.0.0.1"
_MAX_BYTES = 1024**2
_BEGIN = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4"}


def read(path: str, permit: Permit) -> JSON:
    """The configuration in a YAML file of the worker."""
    import yaml

    file = permit.local_path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise _misfit(f"{file} is larger than {_MAX_BYTES} bytes")
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise _misfit(f"{file} cannot be read on this worker: {getattr(exc, 'strerror', None) or exc}") from None
    except (yaml.YAMLError, ValueError):
        raise _misfit(f"{file} is no YAML") from None
    if not isinstance(found, dict):
        raise _misfit(f"{file} holds no configuration of a cluster")
    return found


def allowed(config: JSON, permit: Permit, *, port: int | None = None) -> JSON:
    """The configuration as it is used: folders of the worker resolved, ports on the loopback interface unless others are allowed.

    Raises:
        PolicyError: a folder, an image or an address that the policy does not allow.
        OperationError: KIND_CONFIG_ERROR, it has another shape.
    """
    config = {**_BEGIN, **copy.deepcopy(config)}
    networking = _object(config.get("networking") or {}, "networking")
    _address(networking, "apiServerAddress", permit)
    if port is not None:
        networking["apiServerPort"] = port
    config["networking"] = networking
    for node in _objects(config.get("nodes"), "nodes"):
        if node.get("image") is not None:
            permit.matches("images", str(node["image"]))
        for mount in _objects(node.get("extraMounts"), "extraMounts"):
            mount["hostPath"] = str(permit.local_path(str(mount.get("hostPath") or "")))
        for mapping in _objects(node.get("extraPortMappings"), "extraPortMappings"):
            _address(mapping, "listenAddress", permit)
    return config


def _address(table: JSON, field: str, permit: Permit) -> None:
    found = str(table.get(field) or LOOPBACK)
    try:
        outside = not ip_address(found).is_loopback
    except ValueError:
        raise _misfit(f"{field}: {found!r} is no address") from None
    if outside:
        permit.matches("kind_options", f"publish:{found}")
    table[field] = found


def _object(value: Any, what: str) -> JSON:
    if not isinstance(value, dict):
        raise _misfit(f"{what} has another shape than kind's configuration has")
    return value


def _objects(value: Any, what: str) -> list[JSON]:
    if value is not None and not isinstance(value, list):
        raise _misfit(f"{what} has another shape than kind's configuration has")
    return [_object(item, what) for item in value or ()]


def _misfit(text: str) -> OperationError:
    return OperationError(TaskErrorCode.KIND_CONFIG_ERROR, text)
