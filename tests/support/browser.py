"""A headless Chromium, spoken to over its DevTools protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.polling import eventually, eventually_async
from tests.support.processes import ManagedProcess, Processes
from tests.support.requirements import require


class Chromium(ManagedProcess):
    """One browser with a profile of its own; it listens on a free port and loads nothing by itself."""

    def __init__(self, *, directory: Path) -> None:
        self.profile = directory / "chromium"
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={self.profile}", "about:blank",
        ]  # fmt: skip
        super().__init__("chromium", [require("chromium"), *options], directory=directory)

    @property
    def _port_file(self) -> Path:
        return self.profile / "DevToolsActivePort"

    def wait_ready(self, deadline: float = 60.0) -> None:
        eventually(
            lambda: self._port_file.exists() and self._port_file.read_text().count("\n"), deadline=deadline, what="chromium"
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port_file.read_text().split()[0]}"


class Page:
    """The browser's page: what is evaluated in it, and what it complains of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0
        self.complaints: list[str] = []
        self.requested: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol; what the page says meanwhile is kept."""
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=60)
            if message.get("id") == self._calls:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        done = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Waits until an expression is truthy, and gives its value."""
        return await eventually_async(lambda: self.evaluate(expression), what=expression)


@asynccontextmanager
async def opened(processes: Processes, url: str) -> AsyncIterator[Page]:
    """A page that shows a URL."""
    browser = processes.make(Chromium)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{browser.url}/json/list") as response:
            [target] = [item for item in await response.json(content_type=None) if item["type"] == "page"]
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Page(socket)
            for domain in "Page", "Runtime", "Log", "Network":
                await page.call(f"{domain}.enable")
            await page.call("Page.navigate", url=url)
            yield page
