"""A Kubernetes API server without nodes: its HTTP API, with controllers that do what a test says."""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from tests.support.http_fake import BODY, HttpFake, answer
from tests.support.kubernetes_answers import chosen, missing, plural_of, status

JSON = dict[str, Any]
#: group/version -> (plural, kind, namespaced)
KINDS = {
    "v1": [
        ("pods", "Pod", True),
        ("services", "Service", True),
        ("configmaps", "ConfigMap", True),
        ("secrets", "Secret", True),
        ("namespaces", "Namespace", False),
        ("nodes", "Node", False),
    ],
    "apps/v1": [
        ("deployments", "Deployment", True),
        ("statefulsets", "StatefulSet", True),
        ("daemonsets", "DaemonSet", True),
        ("replicasets", "ReplicaSet", True),
    ],
    "rbac.authorization.k8s.io/v1": [("clusterroles", "ClusterRole", False), ("roles", "Role", True)],
}


@dataclass
class Command:
    """What a command in a container does. `seconds` None: it runs until its client goes."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    seconds: float | None = 0.0
    echoes: bool = False  # writes what it reads


@dataclass
class FakeKubernetes(HttpFake):
    """
    Attributes:
        token: what clients have to know.
        objects: path -> object.
        pod_statuses: name -> the statuses that a new pod goes through; it is ready at once without any.
        stuck: deployments that make no progress: name -> their conditions; an empty list means that they only never get ready.
        logs: pod -> what it has written; `log_lives`: following it goes on.
        commands: the first word -> what it does.
        keep: objects of these names are never gone.
        gone_watches: so many watches answer that what they ask for is forgotten; the last of them in an event.
        watching: how many watches and log streams are open.
        step_seconds: between two statuses of an object.
    """

    token: str = "the-token-of-the-cluster"
    objects: dict[str, JSON] = field(default_factory=dict)
    pod_statuses: dict[str, list[JSON]] = field(default_factory=dict)
    stuck: dict[str, list[JSON]] = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    log_lives: bool = False
    commands: dict[str, Command] = field(default_factory=dict)
    keep: set[str] = field(default_factory=set)
    gone_watches: int = 0
    watching: int = 0
    step_seconds: float = 0.03
    dropped: int = 0
    _version: int = 100
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._events: list[tuple[int, str, str, JSON]] = []
        for name in ("default", "team"):
            self.put(f"/api/v1/namespaces/{name}", {"metadata": {"name": name}, "status": {"phase": "Active"}})

    def kubeconfig(self, path: Path, *, token: str | None = None, authority: Path | None = None) -> Path:
        """Writes one that leads here."""
        server: JSON = {"server": f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"}
        if authority is not None:
            server["certificate-authority"] = str(authority)
        cluster = {"name": "fake", "cluster": server}
        user = {"name": "tester", "user": {"token": token or self.token}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "tester"}}
        whole = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [user], "contexts": [context]}
        path.touch(mode=0o600)
        path.write_text(json.dumps({**whole, "current-context": "fake"}))
        return path

    def application(self) -> web.Application:
        app = web.Application(client_max_size=16 * 1024**2)
        for version, kinds in KINDS.items():
            prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
            app.router.add_get(prefix, self.discover)
            for plural, _, namespaced in kinds:
                place = f"{prefix}/namespaces/{{namespace}}/{plural}" if namespaced else f"{prefix}/{plural}"
                app.router.add_get(place, self.collection)
                app.router.add_post(place, self.create)
                app.router.add_get(place + "/{name}", self.read)
                app.router.add_patch(place + "/{name}", self.apply)
                app.router.add_delete(place + "/{name}", self.delete)
                app.router.add_get(place + "/{name}/scale", self.scale)
                app.router.add_patch(place + "/{name}/scale", self.scale)
        pod = "/api/v1/namespaces/{namespace}/pods/{name}"
        app.router.add_get(pod + "/log", self.log)
        app.router.add_get(pod + "/exec", self.execute)
        app.router.add_get("/api", self.versions)
        app.router.add_get("/apis", self.groups)
        app.router.add_route("*", "/{rest:.*}", self.unknown)
        app.middlewares.append(self._authenticated)
        return app

    @web.middleware
    async def _authenticated(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return status(401, "Unauthorized", "Unauthorized")
        response: web.StreamResponse = await handler(request)
        return response

    # The store

    def put(self, path: str, item: JSON, event: str = "") -> JSON:
        """Keeps an object as it is now, and tells those who watch."""
        self._version += 1
        old = self.objects.get(path)
        metadata = item.setdefault("metadata", {})
        metadata.setdefault("uid", (old or {}).get("metadata", {}).get("uid") or str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", "2026-11-28T10:00:00Z")
        metadata["resourceVersion"] = str(self._version)
        self.objects[path] = item
        self._events.append((self._version, event or ("MODIFIED" if old else "ADDED"), path, copy.deepcopy(item)))
        return item

    def status_of(self, path: str, value: JSON) -> None:
        item = copy.deepcopy(self.objects[path])
        item["status"] = value
        self.put(path, item)

    async def discover(self, request: web.Request) -> web.Response:
        version = request.path.removeprefix("/apis/").removeprefix("/api/")
        resources = [{"name": plural, "kind": kind, "namespaced": inside} for plural, kind, inside in KINDS[version]]
        resources += [{"name": "pods/log", "kind": "Pod", "namespaced": True}] if version == "v1" else []
        return answer({"kind": "APIResourceList", "groupVersion": version, "resources": resources})

    async def versions(self, request: web.Request) -> web.Response:
        return answer({"kind": "APIVersions", "versions": ["v1"]})

    async def groups(self, request: web.Request) -> web.Response:
        groups = []
        for version in filter(lambda version: "/" in version, KINDS):
            served = {"groupVersion": version, "version": version.rpartition("/")[2]}
            groups.append({"name": version.partition("/")[0], "versions": [served], "preferredVersion": served})
        return answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})

    async def unknown(self, request: web.Request) -> web.Response:
        return web.Response(status=404, text="404 page not found\n")

    async def read(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.path)
        return answer(found) if found is not None else missing(request)

    async def collection(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") == "true":
            return await self.watch(request)
        items = [item for path, item in self.objects.items() if path.rpartition("/")[0] == request.path]
        items = [item for item in items if chosen(item, request)]
        limit = int(request.query.get("limit", 1000))
        metadata = {"resourceVersion": str(self._version), **({"continue": "next"} if len(items) > limit else {})}
        return answer({"kind": "List", "metadata": metadata, "items": items[:limit]})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes"""
        if self.gone_watches > 1:
            self.gone_watches -= 1
            return status(410, "Expired", "too old resource version")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if self.gone_watches > 0:
            self.gone_watches -= 1
            gone = {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        since = int(request.query.get("resourceVersion") or 0)
        end = asyncio.get_running_loop().time() + float(request.query.get("timeoutSeconds", 60))
        self.watching += 1
        try:
            while asyncio.get_running_loop().time() < end:
                for version, event, path, item in list(self._events):
                    if version > since and path.rpartition("/")[0] == request.path and chosen(item, request):
                        await response.write(json.dumps({"type": event, "object": item}).encode() + b"\n")
                    since = max(since, version)
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.watching -= 1
        return response

    async def create(self, request: web.Request) -> web.Response:
        item, namespace = request[BODY], request.match_info.get("namespace")
        name = item["metadata"]["name"]
        if namespace is not None and f"/api/v1/namespaces/{namespace}" not in self.objects:
            return status(404, "NotFound", f'namespaces "{namespace}" not found', name=namespace, kind="namespaces")
        path = f"{request.path}/{name}"
        if path in self.objects:
            return status(409, "AlreadyExists", f'"{name}" already exists', name=name, kind=plural_of(request.path))
        made = copy.deepcopy(self.put(path, {**item, "metadata": {**item["metadata"], "namespace": namespace}}))
        self._controlled(path)
        return answer(made, status=201)

    async def apply(self, request: web.Request) -> web.Response:
        """Server-side apply: an object that is not there is made."""
        if request.content_type != "application/apply-patch+yaml" or "fieldManager" not in request.query:
            return status(415, "UnsupportedMediaType", "only server-side apply is served")
        namespace = request.match_info.get("namespace")
        if namespace is not None and f"/api/v1/namespaces/{namespace}" not in self.objects:
            return status(404, "NotFound", f'namespaces "{namespace}" not found', name=namespace, kind="namespaces")
        old, item = self.objects.get(request.path), copy.deepcopy(request[BODY])
        if old is not None and old["metadata"].get("managedBy") == "somebody" and request.query.get("force") != "true":
            causes = [{"reason": "FieldManagerConflict", "message": 'conflict with "somebody"', "field": ".spec.replicas"}]
            return status(409, "Conflict", "Apply failed with 1 conflict", causes=causes)
        if request.query.get("dryRun") == "All":
            item["metadata"]["resourceVersion"] = "0"
            return answer(item, status=200 if old else 201)
        item["metadata"]["namespace"] = namespace
        if old is not None:
            item["status"] = old.get("status", {})
        made = copy.deepcopy(self.put(request.path, item))
        self._controlled(request.path)
        return answer(made, status=200 if old else 201)

    async def scale(self, request: web.Request) -> web.Response:
        path = request.path.removesuffix("/scale")
        found = self.objects.get(path)
        if found is None:
            return missing(request)
        if request.method == "PATCH":
            item = copy.deepcopy(found)
            item["spec"]["replicas"] = request[BODY]["spec"]["replicas"]
            item["metadata"]["generation"] = item["metadata"].get("generation", 1) + 1
            self.put(path, item)
            self._controlled(path)
        return answer({"kind": "Scale", "spec": {"replicas": self.objects[path]["spec"].get("replicas", 1)}})

    async def delete(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.path)
        if found is None:
            return missing(request)
        wanted = (request[BODY] or {}).get("preconditions", {}).get("uid")
        if wanted not in (None, found["metadata"]["uid"]):
            return status(409, "Conflict", "the UID in the precondition does not match")
        if request.match_info["name"] not in self.keep:
            self._later(self._gone(request.path))
        return answer({"kind": "Status", "status": "Success"})

    # Controllers

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _gone(self, path: str) -> None:
        await asyncio.sleep(0.05)
        item = self.objects.pop(path)
        self._events.append((self._version, "DELETED", path, item))

    def _controlled(self, path: str) -> None:
        plural, name = plural_of(path.rpartition("/")[0]), path.rpartition("/")[2]
        statuses: Iterator[JSON] = iter(())
        if plural == "deployments":
            statuses = iter(self._deployment(self.objects[path], name))
        elif plural in ("statefulsets", "replicasets"):
            wanted = self.objects[path]["spec"].get("replicas", 1)
            generation = self.objects[path]["metadata"].get("generation", 0)
            whole = {"observedGeneration": generation, "replicas": wanted, "readyReplicas": wanted, "updatedReplicas": wanted}
            statuses = iter([whole])
        elif plural == "pods":
            statuses = iter(self.pod_statuses.get(name) or [running_status()])
        elif plural == "services":
            self.objects[path]["spec"]["clusterIP"] = "10.96.0.10"
        elif plural == "namespaces":
            self.objects[path]["status"] = {"phase": "Active"}
        self._later(self._steps(path, statuses))

    async def _steps(self, path: str, statuses: Iterator[JSON]) -> None:
        for value in statuses:
            await asyncio.sleep(self.step_seconds)
            if path in self.objects:
                self.status_of(path, value)

    def _deployment(self, item: JSON, name: str) -> list[JSON]:
        wanted = item["spec"].get("replicas", 1)
        base = {"observedGeneration": item["metadata"].get("generation", 0), "replicas": wanted}
        if name in self.stuck:
            return [{**base, "updatedReplicas": wanted, "availableReplicas": 0, "conditions": self.stuck[name]}]
        half = {**base, "updatedReplicas": wanted, "availableReplicas": wanted // 2}
        old = {**base, "replicas": wanted + 1, "updatedReplicas": wanted, "availableReplicas": wanted}
        return [half, old, {**base, "updatedReplicas": wanted, "availableReplicas": wanted, "readyReplicas": wanted}]

    # Pods

    async def log(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self.logs:
            return missing(request)
        text = self.logs[name]
        lines = text.splitlines(keepends=True)[-int(request.query.get("tailLines", 1_000_000)) :]
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"".join(lines))
        self.watching += 1
        try:
            number = 0
            while self.log_lives and request.query.get("follow") == "true":
                await response.write(b"tick %d\n" % number)
                number += 1
                await asyncio.sleep(0.02)
        except (asyncio.CancelledError, ConnectionResetError):
            self.dropped += 1
            raise
        finally:
            self.watching -= 1
        return response

    async def execute(self, request: web.Request) -> web.StreamResponse:
        """https://kubernetes.io/docs/reference/kubectl/ : channels 0 to 3, and in version 5 255 for the end of one."""
        if request.path.removesuffix("/exec") not in self.objects:
            return missing(request)
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await socket.prepare(request)
        argv = request.query.getall("command")
        known = self.commands.get(argv[0])
        if known is None:
            failure = {"status": "Failure", "reason": "InternalError", "message": f"exec: {argv[0]!r}: not found"}
            await socket.send_bytes(b"\x03" + json.dumps(failure).encode())
            await socket.close()
            return socket
        read = b""
        while known.echoes:
            message = await socket.receive()
            if message.type is not WSMsgType.BINARY or message.data[:2] == b"\xff\x00":
                break
            read += message.data[1:]
        for channel, text in ((1, known.stdout + (read if known.echoes else b"")), (2, known.stderr)):
            for begin in range(0, len(text), 1000):
                await socket.send_bytes(bytes([channel]) + text[begin : begin + 1000])
        if known.seconds is None:
            self.watching += 1
            await socket.receive()
            self.watching -= 1
            self.dropped += 1
            return socket
        done: JSON = {"metadata": {}, "status": "Success"}
        if known.exit_code:
            causes = [{"reason": "ExitCode", "message": str(known.exit_code)}]
            done = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        await socket.send_bytes(b"\x03" + json.dumps(done).encode())
        await socket.close()
        return socket


def running_status(**more: Any) -> JSON:
    container = {"name": "main", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": "2026-11-28T10:00:01Z"}}}
    return {
        "phase": "Running",
        "podIP": "10.244.0.7",
        "hostIP": "192.0.2.10",
        "startTime": "2026-11-28T10:00:00Z",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [container],
        **more,
    }


def waiting_status(reason: str) -> JSON:
    container = {"name": "main", "ready": False, "state": {"waiting": {"reason": reason, "message": "back-off"}}}
    return {"phase": "Pending", "containerStatuses": [container]}
