"""The connection to a cluster's API server: who is asked, as whom, and how a stop ends it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from pydantic import Field, StringConstraints

from avtomatika.operations.base import Family, Params
from avtomatika.operations.breakoff import Connections
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import CredentialEntry
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, StopReason
from avtomatika.operations.k8s.failures import judge
from avtomatika.operations.policy import Permit
from avtomatika.private import too_open
from avtomatika.results import JSON

family = Family("k8s", extra="k8s", modules=("kubernetes",), judge=judge)

#: Seconds to connect, and for an answer.
CONNECT, ANSWER = 10.0, 60.0
#: Bytes of an answer.
MAX_ANSWER = 64 * 1024**2
#: The annotation that says which task has made an object: a second attempt knows what the first one made.
TASK_KEY = "avtomatika/task-key"
MANAGER = "avtomatika"

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
#: A name of most kinds: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
Name = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}(?:\.{_LABEL})*$", max_length=253)]
#: Of services and namespaces.
Label = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$")]
#: Of any kind: roles may have colons.
AnyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]*$", max_length=253)]
Kind = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$")]
ApiVersion = Annotated[str, StringConstraints(pattern=r"^(?:[a-z0-9][a-z0-9.-]*/)?v[0-9][a-z0-9]*$", max_length=253)]

#: Where kinds that everybody uses are found, when nobody says it.
VERSIONS = {
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"), "apps/v1"),
    **dict.fromkeys(("Job", "CronJob"), "batch/v1"),
    **dict.fromkeys(("Ingress", "NetworkPolicy"), "networking.k8s.io/v1"),
    **dict.fromkeys(("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"), "rbac.authorization.k8s.io/v1"),
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "PodDisruptionBudget": "policy/v1",
    "StorageClass": "storage.k8s.io/v1",
}


class InCluster(Params):
    """Which cluster: `credential` names a kubeconfig; without it the one that the worker itself runs in."""

    credential: str | None = None

    def guard(self, permit: Permit) -> None:
        """Raises PolicyError for anything that the policy does not allow."""
        if permit.credential(self.credential) is None and permit.option("in_cluster") is not True:
            raise permit.refusal(
                "the cluster that the worker runs in",
                f"name a credential with a kubeconfig, or set in_cluster = true in [policy.{permit.entry.name}.options]",
            )


class InNamespace(InCluster):
    namespace: Label = "default"

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        permit.matches("namespaces", self.namespace)


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind, as the server knows it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    def path(self, namespace: str, name: str | None = None) -> str:
        prefix = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        inside = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced else ""
        return f"{prefix}{inside}/{self.plural}" + ("" if name is None else f"/{quote(name, safe=':')}")


POD = Resource("v1", "Pod", "pods", True)
DEPLOYMENT = Resource("apps/v1", "Deployment", "deployments", True)
SERVICE = Resource("v1", "Service", "services", True)
CONFIG_MAP = Resource("v1", "ConfigMap", "configmaps", True)
NAMESPACE = Resource("v1", "Namespace", "namespaces", False)


class Cluster:
    """The API of one cluster, as JSON. The kubernetes package reads its configuration and speaks TLS with it.

    Its dynamic client is not used: it keeps what it discovers in a file of a shared folder, and nothing ends its calls.
    """

    def __init__(self, configuration: Any, op: OperationContext, *, stoppable: bool = True) -> None:
        from kubernetes import client

        configuration.retries = False
        self.configuration = configuration
        self._op = op
        self._stoppable = stoppable
        self._connections = Connections()
        self._pools = self._connections.follow_all(client.ApiClient(configuration).rest_client.pool_manager)
        self._resources: dict[tuple[str, str], Resource] = {}

    def break_off(self) -> None:
        self._connections.break_off()

    def close(self) -> None:
        self._pools.clear()

    def headers(self) -> dict[str, str]:
        """What says who asks; masked wherever the operation is shown."""
        found = {}
        for setting in self.configuration.auth_settings().values():
            if setting.get("in") == "header" and setting.get("value"):
                self._op.hide(setting["value"])
                self._op.hide(setting["value"].rpartition(" ")[2])
                found[setting["key"]] = setting["value"]
        return found

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        *,
        content_type: str = "application/json",
        seconds: float | None = ANSWER,
    ) -> Any:
        """The response, unread. Raises ApiException for one that is no success."""
        import urllib3
        from kubernetes.client import ApiException

        asked = {name: str(value).lower() if isinstance(value, bool) else value for name, value in (query or {}).items()}
        url = self.configuration.host + path + (f"?{urlencode(asked, doseq=True)}" if asked else "")
        response = self._pools.request(
            method,
            url,
            body=None if body is None else json.dumps(body).encode(),
            headers={"Accept": "application/json", "Content-Type": content_type, **self.headers()},
            preload_content=False,
            timeout=urllib3.Timeout(connect=CONNECT, read=seconds),
            redirect=False,
        )
        if response.status >= 300:
            error = ApiException(status=response.status, reason=response.reason)
            error.body = response.read(MAX_ANSWER).decode("utf-8", "replace")
            response.release_conn()
            raise error
        return response

    def call(self, method: str, path: str, query: Mapping[str, object] | None = None, body: object = None, **more: Any) -> JSON:
        """The answer, decoded; with ``_created`` where the server says 201."""
        if self._stoppable:
            self._op.checkpoint()
        response = self.open(method, path, query, body, **more)
        raw = response.read(MAX_ANSWER + 1)
        response.release_conn()
        if len(raw) > MAX_ANSWER:
            raise OperationError(TaskErrorCode.K8S_API_ERROR, f"the answer is larger than {MAX_ANSWER} bytes: ask for less")
        found: JSON = json.loads(raw)
        if response.status == 201:
            found["_created"] = True
        return found

    def resource(self, kind: str, api_version: str | None = None) -> Resource:
        """How the server calls a kind. Raises OperationError where it has none."""
        version = api_version or VERSIONS.get(kind, "v1")
        if (version, kind) not in self._resources:
            found = self.call("GET", f"/apis/{version}" if "/" in version else f"/api/{version}")
            for item in found.get("resources") or ():
                if "/" not in item["name"]:
                    known = Resource(version, item["kind"], item["name"], bool(item["namespaced"]))
                    self._resources.setdefault((version, known.kind), known)
        if (version, kind) not in self._resources:
            raise OperationError(
                TaskErrorCode.K8S_RESOURCE_NOT_FOUND, f"the cluster has no kind {kind} in {version}: check kind and api_version"
            )
        return self._resources[version, kind]


@contextmanager
def cluster(params: InCluster, op: OperationContext) -> Iterator[Cluster]:
    """The cluster that the parameters name. A stop ends what it waits for, and what it then raises is the stop."""
    found = Cluster(_configuration(params, op), op)
    try:
        with op.on_stop(found.break_off):
            try:
                yield found
            except Exception:
                op.checkpoint()
                raise
            op.checkpoint()
    finally:
        found.close()


@contextmanager
def taken_back(params: InNamespace, op: OperationContext, resource: Resource, name: str) -> Iterator[None]:
    """Where the block is cancelled, an object that this task has made is deleted."""
    try:
        yield
    except BaseException:
        if op.stop_reason is StopReason.CANCEL:
            _delete_own(params, op, resource.path(params.namespace, name), f"{resource.kind} {name}")
        raise


def _delete_own(params: InNamespace, op: OperationContext, path: str, what: str) -> None:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    found = Cluster(_configuration(params, op), op, stoppable=False)  # the stop has closed the other one
    try:
        metadata = found.call("GET", path)["metadata"]
        if is_own(metadata, op):
            found.call("DELETE", path, None, {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"})
            op.log(f"{what}: deleted, since its task is cancelled")
    except (ApiException, HTTPError) as exc:
        if getattr(exc, "status", None) != 404:
            op.log(f"{what} may still be there: {type(exc).__name__}")
    finally:
        found.close()


def is_own(metadata: JSON, op: OperationContext) -> bool:
    """Whether this task has made an object."""
    return bool((metadata.get("annotations") or {}).get(TASK_KEY) == op.key)


def _configuration(params: InCluster, op: OperationContext) -> Any:
    entry = op.permit.credential(params.credential)
    if entry is not None:
        path, context = _kubeconfig(entry)
        return configuration_of(path, context, f"credential {entry.name!r}: ")
    from kubernetes import client
    from kubernetes import config as kubernetes_config

    config: Any = kubernetes_config  # it has no types
    configuration = client.Configuration()
    config.load_incluster_config(client_configuration=configuration)
    return configuration


def configuration_of(path: Path, context: str | None, whose: str = "") -> Any:
    """What a kubeconfig says. Raises OperationError (K8S_CONFIG_ERROR) for one that cannot be used."""
    import yaml
    from kubernetes import client
    from kubernetes import config as kubernetes_config

    config: Any = kubernetes_config
    configuration = client.Configuration()
    try:
        # Not persisted: the file is the administrator's.
        config.load_kube_config(config_file=str(path), context=context, client_configuration=configuration, persist_config=False)
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise OperationError(TaskErrorCode.K8S_CONFIG_ERROR, f"{whose}{path} cannot be used ({type(exc).__name__})") from None
    return configuration


def _kubeconfig(entry: CredentialEntry) -> tuple[Path, str | None]:
    path = entry.kubeconfig
    if path is None or not path.is_file():
        raise OperationError(
            TaskErrorCode.K8S_CONFIG_ERROR,
            f"credential {entry.name!r}: set kubeconfig of [credentials.{entry.name}] to a file on this worker",
        )
    problem = too_open(path)
    if problem is not None:
        raise OperationError(TaskErrorCode.K8S_CONFIG_ERROR, f"credential {entry.name!r}: {problem}")
    return path, entry.context


class Waiting(Params):
    """Part of parameters: how long to wait for what was asked for."""

    wait: bool = True
    wait_seconds: float = Field(300, gt=0, le=86_400)
