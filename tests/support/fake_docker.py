"""A Docker Engine without containers: its HTTP API, with registries that hold what a test says."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.http_fake import BODY, Answered, HttpFake, answer

VERSION = "1.47"


@dataclass
class Program:
    """What a container of an image does. `seconds` None: it runs until it is stopped."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    seconds: float | None = 0.0
    oom: bool = False


@dataclass
class Container:
    id: str
    name: str
    body: dict[str, Any]
    program: Program
    status: str = "created"
    exit_code: int = 0
    began: float = 0.0
    oom: bool = False

    def look(self) -> None:
        """Time passes."""
        seconds = self.program.seconds
        if self.status == "running" and seconds is not None and time.monotonic() - self.began >= seconds:
            self.status, self.exit_code, self.oom = "exited", self.program.exit_code, self.program.oom

    def inspect(self) -> dict[str, Any]:
        self.look()
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Image": sha(self.body["Image"]),
            "Config": {**self.body, "Tty": False},
            "State": {
                "Status": self.status,
                "Running": self.status == "running",
                "ExitCode": self.exit_code,
                "OOMKilled": self.oom,
            },
        }


@dataclass
class FakeDocker(HttpFake):
    """
    Attributes:
        images: local ones: full name -> id.
        remote: what registries hold: full name -> layers (id, bytes).
        accounts: user -> password; where there are some, registries want one.
        stream_error: an entry that ends the next streams: ``{"errorDetail": …}``.
        hold: streams stop here until it is cleared: "headers" before they answer, "middle" after their first entries;
            "create": an answer that a container has been made.
        cut: streams break off after their first entries.
        programs: image -> what its containers do.
        build_entries: what a build says.
        refuse_start: why no container can be started.
        held: how many streams wait now; `dropped`: how many of them the client has left.
    """

    images: dict[str, str] = field(default_factory=dict)
    remote: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    stream_error: dict[str, Any] | None = None
    hold: str = ""
    cut: bool = False
    programs: dict[str, Program] = field(default_factory=dict)
    build_entries: list[dict[str, Any]] = field(default_factory=list)
    containers: dict[str, Container] = field(default_factory=dict)
    refuse_start: str = ""
    held: int = 0
    dropped: int = 0

    @property
    def host(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def path_of(self, request: web.Request) -> str:
        return re.sub(r"^/v1\.[0-9]+", "", request.path)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024**2)
        for version in ("", r"/{version:v1\.\d+}"):
            app.router.add_get(version + "/_ping", self.ping)
            app.router.add_get(version + "/version", self.version)
            app.router.add_post(version + "/auth", self.auth)
            app.router.add_post(version + "/build", self.build)
            app.router.add_post(version + "/images/create", self.pull)
            app.router.add_post(version + "/images/{name:.+}/push", self.push)
            app.router.add_post(version + "/images/{name:.+}/tag", self.tag)
            app.router.add_get(version + "/images/{name:.+}/json", self.image)
            app.router.add_delete(version + "/images/{name:.+}", self.remove_image)
            app.router.add_get(version + "/distribution/{name:.+}/json", self.distribution)
            app.router.add_post(version + "/containers/create", self.create)
            app.router.add_get(version + "/containers/{id}/json", self.inspect)
            app.router.add_post(version + "/containers/{id}/start", self.start)
            app.router.add_post(version + "/containers/{id}/stop", self.stop)
            app.router.add_get(version + "/containers/{id}/logs", self.logs)
            app.router.add_delete(version + "/containers/{id}", self.remove)
        return app

    async def ping(self, request: web.Request) -> web.Response:
        return web.Response(text="OK", headers={"API-Version": VERSION, "OSType": "linux"})

    async def version(self, request: web.Request) -> web.Response:
        return answer({"ApiVersion": VERSION, "Version": "28.0.0", "MinAPIVersion": "1.24"})

    # Images

    def _known(self, request: web.Request) -> bool:
        """Whether the registry takes the account that came with the request."""
        if not self.accounts:
            return True
        header = request.headers.get("X-Registry-Auth", "")
        given = json.loads(base64.urlsafe_b64decode(header)) if header else {}
        return bool(given.get("username")) and self.accounts.get(given["username"]) == given.get("password")

    async def auth(self, request: web.Request) -> web.Response:
        body = request[BODY]
        if self.accounts.get(body["username"]) != body["password"]:
            return said(401, "Get https://registry/v2/: unauthorized: incorrect username or password")
        return answer({"Status": "Login Succeeded"})

    async def image(self, request: web.Request) -> web.Response:
        name = tagged(request.match_info["name"])
        given = request.match_info["name"]
        found = self.images.get(name) or (given if given in self.images.values() else None)
        if found is None:
            return said(404, f"No such image: {name}")
        digests = [f"{name.rpartition(':')[0]}@{sha('manifest', name)}"] if name in self.remote else []
        return answer({"Id": found, "RepoTags": [name], "RepoDigests": digests, "Size": 1234})

    async def distribution(self, request: web.Request) -> web.Response:
        name = tagged(request.match_info["name"])
        if not self._known(request):
            return said(401, "no basic auth credentials")
        if name not in self.remote:
            return said(404, f"manifest for {name} not found")
        return answer({"Descriptor": {"digest": sha("manifest", name)}, "Platforms": []})

    async def pull(self, request: web.Request) -> web.StreamResponse:
        repository, tag = familiar(request.query["fromImage"]), request.query.get("tag")
        names = [name for name in self.remote if name == f"{repository}:{tag}" or (not tag and name.startswith(f"{repository}:"))]
        if not self._known(request):
            return said(401, "unauthorized: authentication required")
        if not names and self.stream_error is None:
            return said(404, f"pull access denied for {repository}, repository does not exist or may require 'docker login'")
        entries: list[dict[str, Any]] = [{"status": f"Pulling from {repository}", "id": tag}]
        for name in names:
            for layer, size in self.remote[name]:
                for status, done in [
                    ("Pulling fs layer", None),
                    ("Downloading", size // 2),
                    ("Downloading", size),
                    ("Download complete", None),
                    ("Extracting", size),
                    ("Pull complete", None),
                ]:
                    detail = {} if done is None else {"current": done, "total": size}
                    entries.append({"status": status, "progressDetail": detail, "id": layer})
        response = await self._stream(request, entries)
        if self.stream_error is None:
            self.images.update({name: sha("image", name) for name in names})
        return response

    async def push(self, request: web.Request) -> web.StreamResponse:
        name, tag = familiar(request.match_info["name"]), request.query.get("tag")
        names = [image for image in self.images if image == f"{name}:{tag}" or (not tag and image.startswith(f"{name}:"))]
        entries: list[dict[str, Any]] = [{"status": f"The push refers to repository [{name}]"}]
        for layer, size in [("aaa", 4000), ("bbb", 2000)]:
            entries.append({"status": "Preparing", "progressDetail": {}, "id": layer})
            entries.append({"status": "Pushing", "progressDetail": {"current": size, "total": size}, "id": layer})
            entries.append({"status": "Pushed", "progressDetail": {}, "id": layer})
        if not self._known(request):
            text = "denied: requested access to the resource is denied"
            return await self._stream(request, [*entries[:2], {"errorDetail": {"message": text}, "error": text}])
        for image in names:
            found = image.rpartition(":")[2]
            entries.append({"progressDetail": {}, "aux": {"Tag": found, "Digest": sha("manifest", image), "Size": 529}})
        response = await self._stream(request, entries)
        self.remote.update({image: [("aaa", 4000)] for image in names})
        return response

    async def tag(self, request: web.Request) -> web.Response:
        found = self.images.get(tagged(request.match_info["name"]))
        if found is None:
            return said(404, f"No such image: {request.match_info['name']}")
        self.images[f"{familiar(request.query['repo'])}:{request.query['tag']}"] = found
        return web.Response(status=201)

    async def remove_image(self, request: web.Request) -> web.Response:
        name = tagged(request.match_info["name"])
        if name not in self.images:
            return said(404, f"No such image: {name}")
        used = any(container.body["Image"] == name for container in self.containers.values())
        if used and request.query.get("force") != "True":
            return said(409, f"conflict: unable to remove repository reference {name!r}: container is using it")
        found = self.images.pop(name)
        return answer([{"Untagged": name}, {"Deleted": found}])

    async def build(self, request: web.Request) -> web.StreamResponse:
        found = sha("image", request.query["t"])
        entries = self.build_entries or [
            {"stream": "Step 1/2 : FROM scratch"},
            {"stream": "\n"},
            {"stream": "Step 2/2 : COPY . /\n"},
            {"stream": " ---> 0123456789ab\n"},
            {"aux": {"ID": found}},
            {"stream": "Successfully built 0123456789ab\n"},
        ]
        response = await self._stream(request, entries)
        self.images[request.query["t"]] = found
        return response

    async def _stream(self, request: web.Request, entries: Iterable[dict[str, Any]]) -> web.StreamResponse:
        """A chunked body with one JSON object after the other, as the engine sends it."""
        if self.hold == "headers":
            await self._wait("headers")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        entries = list(entries)
        if self.stream_error is not None:
            entries = [*entries[:2], self.stream_error]
        for number, entry in enumerate(entries):
            await response.write(json.dumps(entry).encode() + b"\r\n")
            if number == 1 and self.hold == "middle":
                await self._wait("middle")
            if number == 1 and self.cut and request.transport is not None:
                request.transport.close()
                return response
        await response.write_eof()
        return response

    async def _wait(self, place: str) -> None:
        self.held += 1
        try:
            while self.hold == place:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.held -= 1

    # Containers

    def _container(self, request: web.Request) -> Container:
        wanted = request.match_info["id"]
        for container in self.containers.values():
            if wanted == container.name or container.id.startswith(wanted):
                container.look()
                return container
        raise Answered(said(404, f"No such container: {wanted}"))

    async def create(self, request: web.Request) -> web.Response:
        body, name = request[BODY], request.query.get("name", "")
        body["Image"] = tagged(body["Image"])
        if body["Image"] not in self.images:
            return said(404, f"No such image: {body['Image']}")
        if any(container.name == name for container in self.containers.values()):
            return said(409, f'Conflict. The container name "/{name}" is already in use by another container')
        container = self.add(name, body["Image"], body=body)
        if self.hold == "create":
            await self._wait("create")
        return answer({"Id": container.id, "Warnings": []}, status=201)

    def add(self, name: str, image: str, *, status: str = "created", body: dict[str, Any] | None = None) -> Container:
        id_ = hashlib.sha256(f"{name}{len(self.containers)}".encode()).hexdigest()
        container = Container(id_, name, body or {"Image": image, "Labels": {}}, self.programs.get(image, Program()), status)
        container.began = time.monotonic()
        self.containers[id_] = container
        return container

    async def inspect(self, request: web.Request) -> web.Response:
        return answer(self._container(request).inspect())

    async def start(self, request: web.Request) -> web.Response:
        container = self._container(request)
        if self.refuse_start:
            return said(500, self.refuse_start)
        if container.status == "running":
            return web.Response(status=304)
        container.status, container.began = "running", time.monotonic()
        return web.Response(status=204)

    async def stop(self, request: web.Request) -> web.Response:
        container = self._container(request)
        if container.status != "running":
            return web.Response(status=304)
        container.status, container.exit_code = "exited", 137
        return web.Response(status=204)

    async def remove(self, request: web.Request) -> web.Response:
        container = self._container(request)
        if container.status == "running" and request.query.get("force") != "True":
            return said(409, f"cannot remove container {container.name!r}: container is running")
        del self.containers[container.id]
        return web.Response(status=204)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """Frames of eight bytes and their text: https://docs.docker.com/reference/api/engine/#tag/Container/operation/ContainerAttach"""
        container = self._container(request)
        follow = request.query.get("follow") == "1" and container.status == "running"
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.docker.multiplexed-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for number, name in ((1, "stdout"), (2, "stderr")):
            text = getattr(container.program, name)
            if request.query.get(name) == "1" and text and container.status != "created":
                for begin in range(0, len(text), 1000):
                    block = text[begin : begin + 1000]
                    await response.write(struct.pack(">BxxxL", number, len(block)) + block)
        while follow and container.id in self.containers:
            container.look()
            if container.status != "running":
                break
            await asyncio.sleep(0.01)
        await response.write_eof()
        return response


def familiar(name: str) -> str:
    """A name as the engine knows it: the first registry and its first folder are not written."""
    return re.sub(r"^docker\.io/(?:library/)?", "", name)


def tagged(name: str) -> str:
    """The same with a tag, where it has neither one nor a digest."""
    name = familiar(name)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def said(status: int, message: str) -> web.Response:
    """An error as the engine answers it."""
    return answer({"message": message}, status=status)


def sha(*parts: str) -> str:
    return "sha256:" + hashlib.sha256("/".join(parts).encode()).hexdigest()
