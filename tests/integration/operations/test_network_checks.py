"""Checks, scans and monitors with real sockets, certificates and HTTP servers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, PolicyError
from tests.support.ftp import make_certificate
from tests.support.operation_calls import call, make_call
from tests.support.polling import eventually_async
from tests.support.processes import free_port

CONFIG = """
[hosts.here]
address = "127.0.0.1"
[hosts.named]
address = "localhost"
[hosts.nowhere]
address = "nowhere.invalid"
[hosts.odd]
address = "{odd}"
[hosts.trusted]
address = "127.0.0.1"
ca_file = "{ca}"
[policy.default]
operations = ["network_*"]
hosts = ["*"]
[policy.default.options]
scan_ranges = ["127.0.0.0/29"]
scan_ports = [22, "10000-65535"]
scan_max = 5000
[policy.anywhere]
operations = ["network_*", "ftp_list"]
remote_roots = ["/"]
any_host = true
[policy.nothing]
operations = ["network_*"]
hosts = ["*"]
"""


def _config(ca: Path | str = "/nonexistent") -> str:
    return CONFIG.format(ca=ca, odd="x" * 64 + ".example")


@contextmanager
def _listening(address: str = "127.0.0.1") -> Iterator[int]:
    with socket.create_server((address, 0)) as server:
        yield server.getsockname()[1]


@asynccontextmanager
async def _tls(file: Path) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def _http(**answers: Any) -> AsyncIterator[int]:
    """Paths and what they answer: a status, or a URL to go to."""

    async def answer(request: web.Request) -> web.Response:
        said = answers[request.path.strip("/")]
        if isinstance(said, int):
            return web.Response(status=said)
        return web.Response(status=302, headers={"Location": said.format(port=request.url.port)})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_several_checks_in_one_result() -> None:
    with _listening() as port:
        params = {"host": "named", "port": port, "checks": ["dns", "tcp"]}
        result = await call("network_test", params, _config())
    assert [verdict["check"] for verdict in result["checks"]] == ["dns", "tcp"]
    assert "127.0.0.1" in result["checks"][0]["addresses"]
    assert result["reachable"] is True


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"host": "here", "port": 0}, TaskErrorCode.VALIDATION_OUT_OF_RANGE),
        ({"port": 22}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"host": "here", "checks": ["http"]}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"host": "here", "checks": ["tcp"]}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"host": "here", "checks": ["ping"]}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"url": "ftp://here/"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"host": "elsewhere", "port": 22}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"url": "http://elsewhere/"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"url": "http://here/", "redirect_hosts": ["elsewhere"]}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"host": "nowhere", "port": 22}, TaskErrorCode.NETWORK_DNS_ERROR),
        ({"url": "http://nowhere/"}, TaskErrorCode.NETWORK_DNS_ERROR),
        ({"host": "odd", "port": 22}, TaskErrorCode.NETWORK_DNS_ERROR),
        ({"host": "here", "port": "closed"}, TaskErrorCode.NETWORK_CONNECTION_FAILED),
        ({"url": "http://here:{closed}/"}, TaskErrorCode.NETWORK_CONNECTION_FAILED),
    ],
)
async def test_failures_and_their_codes(params: dict[str, Any], code: TaskErrorCode) -> None:
    closed = free_port()
    if params.get("port") == "closed":
        params = {**params, "port": closed}
    if "url" in params:
        params = {**params, "url": params["url"].format(closed=closed)}
    with pytest.raises(OperationError) as failed:
        await call("network_test", params, _config())
    assert failed.value.code == code


async def test_a_report_has_failures_in_it() -> None:
    result = await call("network_test", {"host": "nowhere", "port": 22, "report_only": True}, _config())
    assert result["reachable"] is False
    assert result["checks"][0]["error_code"] == "NETWORK_DNS_ERROR"


async def test_no_answer_in_time() -> None:
    with _listening() as port:  # it accepts, and never speaks TLS
        with pytest.raises(OperationError) as failed:
            await call("network_test", {"host": "here", "port": port, "checks": ["tls"], "timeout": 0.3}, _config())
        assert failed.value.code == TaskErrorCode.NETWORK_TIMEOUT
        with pytest.raises(OperationError) as failed:
            await call("network_test", {"url": f"http://here:{port}/", "timeout": 0.3}, _config())
        assert failed.value.code == TaskErrorCode.NETWORK_TIMEOUT


async def test_certificates(tmp_path: Path) -> None:
    good, old = make_certificate(tmp_path), make_certificate(tmp_path, days=-1)
    other = make_certificate(tmp_path, "files.example")
    check = {"host": "trusted", "checks": ["tls"]}
    async with _tls(good.file) as port:
        facts = (await call("network_test", {**check, "port": port}, _config(good.file)))["checks"][0]
        assert facts["verified"] is True
        assert facts["days_left"] in (29, 30)
        assert facts["names"] == ["127.0.0.1"]
        assert facts["chain"] == ["CN=127.0.0.1"]
        assert facts["fingerprint"] == f"SHA256:{good.fingerprint}"
        with pytest.raises(OperationError, match="good for") as failed:
            await call("network_test", {**check, "port": port, "min_days": 60}, _config(good.file))
        assert failed.value.code == TaskErrorCode.NETWORK_SSL_ERROR
        with pytest.raises(OperationError) as failed:  # nobody trusts who signed it
            await call("network_test", {**check, "host": "here", "port": port}, _config(good.file))
        assert failed.value.code == TaskErrorCode.NETWORK_SSL_ERROR
    for certificate in (old, other):  # out of date; for another name
        async with _tls(certificate.file) as port:
            with pytest.raises(OperationError) as failed:
                await call("network_test", {**check, "port": port}, _config(certificate.file))
            assert failed.value.code == TaskErrorCode.NETWORK_SSL_ERROR
            shown = failed.value.details["checks"][0]
            assert shown["verified"] is False
            assert shown["fingerprint"] == f"SHA256:{certificate.fingerprint}"  # what it showed is told all the same


async def test_http_and_its_redirects() -> None:
    answers = {
        "ok": 200, "gone": 404, "broken": 503, "proxy": 407, "within": "/ok", "round": "/round",
        "away": "http://named:{port}/ok", "inside": "http://169.254.169.254/latest",
    }  # fmt: skip
    async with _http(**answers) as port:
        url = f"http://here:{port}"
        assert (await call("network_test", {"url": f"{url}/ok"}, _config()))["checks"][0]["status"] == 200
        found = (await call("network_test", {"url": f"{url}/within"}, _config()))["checks"][0]
        assert (found["status"], found["redirects"]) == (200, [f"{url}/ok"])
        for path in ("away", "inside"):
            found = (await call("network_test", {"url": f"{url}/{path}"}, _config()))["checks"][0]
            assert (found["status"], found["redirects"]) == (302, [])
            assert found["redirect_not_followed"]
        params = {"url": f"{url}/away", "redirect_hosts": ["named"]}
        assert (await call("network_test", params, _config()))["checks"][0]["status"] == 200
        found = (await call("network_test", {"url": f"{url}/round", "max_redirects": 3}, _config()))["checks"][0]
        assert len(found["redirects"]) == 3
        await call("network_test", {"url": f"{url}/gone", "expected_status": [404]}, _config())
        for path, code, kind in (
            ("gone", TaskErrorCode.EXTERNAL_SERVICE_ERROR, "PERMANENT_ERROR"),
            ("broken", TaskErrorCode.EXTERNAL_SERVICE_ERROR, "TRANSIENT_ERROR"),
            ("proxy", TaskErrorCode.NETWORK_PROXY_ERROR, "PERMANENT_ERROR"),
        ):
            with pytest.raises(OperationError) as failed:
                await call("network_test", {"url": f"{url}/{path}"}, _config())
            assert (failed.value.code, failed.value.kind) == (code, kind)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "169.254.169.254", "100.100.100.200", "127.1", "2130706433", "0.0.0.0", "[::1]"]
)
async def test_addresses_of_this_machine_need_the_inventory(host: str) -> None:
    """Whatever name or number leads there, and whichever check goes there."""
    name = host.strip("[]")
    for params in ({"host": name, "port": 80}, {"host": name}, {"host": name, "checks": ["tls"]}, {"url": f"http://{host}/"}):
        with pytest.raises(OperationError) as refused:
            await call("network_test", params, _config(), role="anywhere")
        assert isinstance(refused.value, PolicyError) or refused.value.code == TaskErrorCode.VALIDATION_INVALID_FORMAT


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "100.100.100.200"])
async def test_a_name_that_leads_to_such_an_address_is_not_connected_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps the name could let it lead anywhere."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    name = "rebind.example"
    for params in ({"host": name, "port": 80}, {"host": name}, {"host": name, "checks": ["tls"]}, {"url": f"http://{name}/"}):
        with pytest.raises(PolicyError, match="leads to"):
            await call("network_test", params, _config(), role="anywhere")
    with pytest.raises(PolicyError, match="leads to"):
        await call("ftp_list", {"host": name}, _config(), role="anywhere")


# Scans


async def test_a_scan_finds_what_is_open() -> None:
    with _listening("127.0.0.2") as port, _listening("127.0.0.3") as other:
        params = {"targets": ["127.0.0.0/29", "here"], "ports": sorted({port, other}), "timeout": 2, "rate": 5000}
        config = _config().replace("scan_max", "scan_rate = 5000\nscan_max")
        result = await call("network_scan", params, config)
    found = {host["address"]: host["open"] for host in result["hosts"]}
    assert port in found["127.0.0.2"]
    assert other in found["127.0.0.3"]
    assert found["127.0.0.1"] == [] or port != other
    assert result["hosts_scanned"] == 6  # the inventory's is one of them
    assert result["hosts_up"] == 6  # those without an open port refuse
    assert result["connections"] == 6 * result["ports_scanned"]


@pytest.mark.parametrize(
    ("params", "role", "code"),
    [
        ({"targets": ["127.0.0.0/28"], "ports": [22]}, "default", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"targets": ["10.0.0.1"], "ports": [22]}, "default", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"targets": ["::1"], "ports": [22]}, "default", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"targets": ["127.0.0.1"], "ports": [23]}, "default", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"targets": ["127.0.0.1"], "ports": ["9999-10001"]}, "default", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"targets": ["127.0.0.1"], "ports": [22]}, "nothing", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"targets": ["127.0.0.0/29"], "ports": ["10000-20000"]}, "default", TaskErrorCode.VALIDATION_OUT_OF_RANGE),
        ({"targets": ["127.0.0.1"], "ports": ["100-1"]}, "default", TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"targets": ["127.0.0.1"], "ports": [70000]}, "default", TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"targets": [], "ports": [22]}, "default", TaskErrorCode.VALIDATION_INVALID_PARAMS),
    ],
)
async def test_a_scan_keeps_to_what_the_policy_names(params: dict[str, Any], role: str, code: TaskErrorCode) -> None:
    with pytest.raises(OperationError) as refused:
        make_call("network_scan", params, _config(), role=role)
    assert refused.value.code == code


# Monitors


async def test_a_monitor_counts_what_fails_and_how_long_it_takes() -> None:
    port = free_port()
    params = {"host": "here", "port": port, "interval": 0.1, "duration": 2.0}
    one = make_call("network_monitor", params, _config())
    work = one.start()

    async def has_failed() -> bool:
        return "it fails" in one.log()

    await eventually_async(has_failed, interval=0.02)
    with socket.create_server(("127.0.0.1", port)):
        result = await work
    assert result["sent"] == result["received"] + result["errors"]["NETWORK_CONNECTION_FAILED"]
    assert result["received"] > 0
    assert 0 < result["loss_percent"] < 100
    assert result["outages"][0]["until"] is not None
    seconds = result["seconds"]
    assert seconds["min"] <= seconds["avg"] <= seconds["max"]
    assert seconds["min"] <= seconds["p95"] <= seconds["max"]
    assert result["interfaces"]["packets_sent"] >= 0


async def test_a_monitor_may_fail_and_is_stopped() -> None:
    params = {"host": "here", "port": free_port(), "interval": 0.1, "duration": 0.3, "max_loss": 50}
    with pytest.raises(OperationError) as failed:
        await call("network_monitor", params, _config())
    assert failed.value.code == TaskErrorCode.NETWORK_CONNECTION_FAILED
    assert failed.value.details["loss_percent"] == 100
    with pytest.raises(OperationError, match="timeout_seconds"):
        await call("network_monitor", {**params, "duration": 500}, _config(), seconds=100)

    work = make_call("network_monitor", {**params, "duration": 80_000, "interval": 30}, _config()).start()
    await asyncio.sleep(0.2)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
