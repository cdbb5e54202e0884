"""The connection to a Docker Engine, and what its failures mean."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Family
from avtomatika.operations.breakoff import Connections, causes
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.docker.references import Daemon
from avtomatika.operations.errors import OperationError

#: Seconds for a call that answers at once. Streams have none: a layer may be silent for long, and a stop closes its socket.
CALL_SECONDS = 60.0

#: What an HTTP status means, wherever it comes from; 404, 409 and 5xx depend on what was asked.
STATUS = {
    400: TaskErrorCode.VALIDATION_INVALID_PARAMS,
    401: TaskErrorCode.DOCKER_AUTHENTICATION_FAILED,
    403: TaskErrorCode.DOCKER_PERMISSION_DENIED,
    409: TaskErrorCode.DOCKER_CONTAINER_ALREADY_RUNNING,
    429: TaskErrorCode.DOCKER_REGISTRY_ERROR,
}
#: Calls that the daemon answers only after it has asked a registry.
_REGISTRY = re.compile(r"/(?:images/create|images/.+/push|auth|distribution/.+/json)$")
_OF_CONTAINER = re.compile(r"/containers/(?!create$)")


def judge(exc: BaseException) -> OperationError | None:
    """What an exception of the library means: by its type, the HTTP status and what was asked."""
    try:
        import requests
        from docker import errors
        from urllib3.exceptions import HTTPError
    except ImportError:
        return None
    match exc:
        case errors.APIError():
            return _of_status(exc)
        case errors.DockerException():
            return OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"the Docker client cannot be set up: {exc}")
        case requests.exceptions.RequestException() | HTTPError():
            return _of_connection(exc)
    return None


def _of_status(exc: Any) -> OperationError:
    status, path = exc.status_code, exc.response.request.path_url.partition("?")[0]
    said = exc.explanation or exc.response.reason
    code = STATUS.get(status, TaskErrorCode.EXTERNAL_SERVICE_ERROR)
    if status == 404:
        of_container = _OF_CONTAINER.search(path)
        code = TaskErrorCode.DOCKER_CONTAINER_NOT_FOUND if of_container else TaskErrorCode.DOCKER_IMAGE_NOT_FOUND
    elif status >= 500 and _REGISTRY.search(path):
        code = TaskErrorCode.DOCKER_REGISTRY_ERROR
    elif status >= 500 and path.endswith("/build"):
        code = TaskErrorCode.DOCKER_BUILD_FAILED
    return OperationError(code, f"the Docker Engine answers {status}: {said}", details={"status": status})


def _of_connection(exc: BaseException) -> OperationError:
    found = list(causes(exc))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in found):
        return OperationError(
            TaskErrorCode.CONFIGURATION_ERROR,
            "the Docker Engine's certificate is not of the authority in DOCKER_CERT_PATH on the worker",
        )
    if any(isinstance(cause, PermissionError) for cause in found):
        return OperationError(
            TaskErrorCode.DOCKER_PERMISSION_DENIED,
            "the worker's user may not open the socket of the Docker Engine: add the user to the group docker",
        )
    return OperationError(
        TaskErrorCode.DOCKER_NETWORK_ERROR,
        f"the Docker Engine cannot be reached, or went away: start it, or set DOCKER_HOST on the worker ({type(exc).__name__})",
    )


family = Family("docker", extra="docker", modules=("docker",), judge=judge)


@cache
def _client_class() -> Any:
    import docker

    class EngineClient(docker.APIClient):  # type: ignore[misc]
        """A client that can be stopped while it waits, and that knows no account but those that it is given."""

        def __init__(self, base_url: str | None, tls: Any) -> None:
            # Until the daemon is asked, the oldest version; asking in the constructor would hide why it fails.
            super().__init__(base_url, version=docker.constants.MINIMUM_DOCKER_API_VERSION, timeout=CALL_SECONDS, tls=tls)
            self.trust_env = False  # no proxy and no .netrc between a worker and its daemon
            self.registries: dict[str, dict[str, Any]] = {}
            self._opened = Connections()

        def negotiate(self) -> None:
            """Asks for the API's version."""
            self._version = self.version(api_version=False)["ApiVersion"]

        def get_adapter(self, url: str) -> Any:
            adapter = super().get_adapter(url)
            if not hasattr(adapter, "_followed"):
                adapter._followed = True
                connection_of = adapter.get_connection_with_tls_context
                adapter.get_connection_with_tls_context = lambda *args, **kwargs: self._opened.follow(
                    connection_of(*args, **kwargs)
                )
            return adapter

        def break_off(self) -> None:
            """Ends whatever it waits for. Called from another thread."""
            self._opened.break_off()

        def _set_auth_headers(self, headers: dict[str, Any]) -> None:
            """For builds: the library would send every account of the worker's ~/.docker."""
            if self.registries:
                headers["X-Registry-Config"] = docker.auth.encode_header(self.registries)

    return EngineClient


def connect(params: Daemon) -> Any:
    """A client of the daemon that the parameters name, DOCKER_HOST's without that. Close it."""
    from docker.utils import kwargs_from_env

    environment = dict(os.environ)
    if params.docker_host is not None:
        environment["DOCKER_HOST"] = params.docker_host
    found = kwargs_from_env(environment=environment)
    url = found.get("base_url")
    if url is not None and url.startswith("ssh://"):
        raise OperationError(
            TaskErrorCode.CONFIGURATION_ERROR,
            "DOCKER_HOST=ssh://… would accept any host key: forward the socket with ssh_tunnel, or use tcp:// with TLS",
        )
    client = _client_class()(url, found.get("tls", False))
    try:
        client.negotiate()
    except BaseException:
        client.close()
        raise
    return client


@contextmanager
def engine(params: Daemon, op: OperationContext) -> Iterator[Any]:
    """A client for an operation: a stop ends what it waits for, and what it then raises is the stop."""
    client = connect(params)
    try:
        with op.on_stop(client.break_off):
            try:
                yield client
            except Exception:
                op.checkpoint()
                raise
            op.checkpoint()
    finally:
        client.close()


def by_code(code: object, message: str, otherwise: TaskErrorCode) -> OperationError:
    """A failure inside a stream: by its number, where the daemon gives one."""
    known = STATUS.get(code, otherwise) if isinstance(code, int) else otherwise
    if code == 404:
        known = TaskErrorCode.DOCKER_IMAGE_NOT_FOUND
    if isinstance(code, int) and 500 <= code <= 599:
        known = TaskErrorCode.DOCKER_REGISTRY_ERROR
    kind = ErrorCode.INVALID_INPUT if known is TaskErrorCode.VALIDATION_INVALID_PARAMS else None
    return OperationError(known, message, details={} if code is None else {"code": code}, kind=kind)
