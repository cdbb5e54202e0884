"""What a cluster's answers mean."""

from __future__ import annotations

import json
import ssl
from typing import Any

from avtomatika.errors import ErrorCode
from avtomatika.operations.breakoff import causes
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.results import JSON

#: Of a kind that the server does not take: as a Status names it (its plural, or the kind itself).
_FAILED = {
    "pod": TaskErrorCode.K8S_POD_FAILED,
    "deployment": TaskErrorCode.K8S_DEPLOYMENT_FAILED,
    "statefulset": TaskErrorCode.K8S_DEPLOYMENT_FAILED,
    "daemonset": TaskErrorCode.K8S_DEPLOYMENT_FAILED,
    "replicaset": TaskErrorCode.K8S_DEPLOYMENT_FAILED,
    "service": TaskErrorCode.K8S_SERVICE_FAILED,
    "configmap": TaskErrorCode.K8S_CONFIGMAP_FAILED,
    "secret": TaskErrorCode.K8S_SECRET_FAILED,
}


def failed_code(kind: str) -> TaskErrorCode:
    """The code for objects of a kind that did not become what was asked for."""
    return _FAILED.get(kind.lower().removesuffix("s"), TaskErrorCode.K8S_API_ERROR)


def judge(exc: BaseException) -> OperationError | None:
    """What an exception means: by its type, the HTTP status and the fields of the server's Status object."""
    try:
        from kubernetes.client import ApiException
        from kubernetes.config import ConfigException
        from urllib3.exceptions import HTTPError
        from websocket import WebSocketBadStatusException, WebSocketException
    except ImportError:
        return None
    match exc:
        case ApiException():
            return of_status(int(exc.status or 0), status_object(exc.body), str(exc.reason or ""))
        case WebSocketBadStatusException():
            return of_status(int(exc.status_code), status_object(getattr(exc, "resp_body", None)), "")
        case ConfigException():
            return OperationError(TaskErrorCode.K8S_CONFIG_ERROR, f"the kubeconfig does not fit: {exc}")
        case HTTPError() | OSError() if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(exc)):
            return OperationError(
                TaskErrorCode.K8S_CONFIG_ERROR, "the API server's certificate is not the one that the kubeconfig trusts"
            )
        case HTTPError() | WebSocketException() | OSError():
            return OperationError(
                TaskErrorCode.K8S_CLUSTER_UNAVAILABLE,
                f"the API server cannot be reached, or went away ({type(exc).__name__}): check the kubeconfig's server",
            )
    return None


def status_object(body: Any) -> JSON:
    """The Status that the server explains a failure with; empty where there is none."""
    try:
        found = json.loads(body or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def of_status(status: int, said: JSON, reason: str) -> OperationError:
    """An answer that is no success."""
    details = said.get("details") or {}
    kind = str(details.get("kind") or "")
    code, how = TaskErrorCode.K8S_API_ERROR, None
    if status in (401, 403):
        code = TaskErrorCode.K8S_AUTHENTICATION_FAILED
    elif status == 404:
        of_namespace = kind.lower() in ("namespaces", "namespace")
        code = TaskErrorCode.K8S_NAMESPACE_NOT_FOUND if of_namespace else TaskErrorCode.K8S_RESOURCE_NOT_FOUND
    elif status == 409 and said.get("reason") == "AlreadyExists":
        code = TaskErrorCode.K8S_RESOURCE_ALREADY_EXISTS
    elif status == 409:
        causes = [cause.get("reason") for cause in details.get("causes") or ()]
        how = None if "FieldManagerConflict" in causes else ErrorCode.TRANSIENT
    elif status in (400, 413, 415, 422):
        code, how = failed_code(kind), ErrorCode.INVALID_INPUT
    elif status == 429 or status >= 500:
        code = TaskErrorCode.K8S_CLUSTER_UNAVAILABLE
    facts = {"status": status, "reason": said.get("reason"), "kind": kind or None, "name": details.get("name")}
    return OperationError(
        code,
        f"the API server answers {status}: {said.get('message') or reason or 'without a reason'}",
        details={name: value for name, value in facts.items() if value is not None},
        kind=how,
    )
