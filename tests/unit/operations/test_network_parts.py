"""Network and web hooks without a network: what exceptions mean, statistics, ports, patterns of URLs."""

from __future__ import annotations

import errno
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.custom.webhook import url_matches
from avtomatika.operations.errors import OperationError
from avtomatika.operations.network.checks import Verdict
from avtomatika.operations.network.family import judge
from avtomatika.operations.network.monitor import Statistics, jitter, percentile
from avtomatika.operations.network.scan import ports_of


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), TaskErrorCode.NETWORK_DNS_ERROR),
        (ssl.SSLError(1, "handshake failure"), TaskErrorCode.NETWORK_SSL_ERROR),
        (ssl.SSLCertVerificationError(1, "x"), TaskErrorCode.NETWORK_SSL_ERROR),
        (TimeoutError(), TaskErrorCode.NETWORK_TIMEOUT),
        (OSError(errno.ETIMEDOUT, "x"), TaskErrorCode.NETWORK_TIMEOUT),
        (OSError(errno.EACCES, "x"), TaskErrorCode.NETWORK_FIREWALL_BLOCKED),
        (OSError(errno.EPERM, "x"), TaskErrorCode.NETWORK_FIREWALL_BLOCKED),
        (OSError(errno.ECONNREFUSED, "timed out, certificate, dns"), TaskErrorCode.NETWORK_CONNECTION_FAILED),
        (OSError(errno.EHOSTUNREACH, "x"), TaskErrorCode.NETWORK_CONNECTION_FAILED),
        (EOFError(), TaskErrorCode.NETWORK_CONNECTION_FAILED),
    ],
)
def test_what_an_exception_means(exc: Exception, code: TaskErrorCode) -> None:
    known = judge(exc)
    assert known is not None
    assert known.code == code
    assert judge(KeyError()) is None


def test_statistics() -> None:
    statistics = Statistics()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    failure = OperationError(TaskErrorCode.NETWORK_TIMEOUT, "x")
    for number, seconds in enumerate([0.1, 0.3, None, None, 0.2]):
        verdict = Verdict("tcp", seconds or 0.0, failure=failure if seconds is None else None)
        statistics.add(verdict, now + timedelta(seconds=number))
    said = statistics.to_dict()
    assert (said["sent"], said["received"], said["loss_percent"]) == (5, 3, 40.0)
    assert said["errors"] == {"NETWORK_TIMEOUT": 2}
    assert said["outages"] == [
        {"since": "2026-01-01T00:00:02+00:00", "until": "2026-01-01T00:00:04+00:00", "error_code": "NETWORK_TIMEOUT"}
    ]
    assert said["seconds"] == {"min": 0.1, "avg": 0.2, "p95": 0.3, "max": 0.3, "jitter": 0.15}
    assert Statistics().to_dict()["seconds"] is None


def test_percentile_and_jitter() -> None:
    assert percentile([float(number) for number in range(1, 101)], 95) == 95
    assert percentile([7.0], 95) == 7
    assert jitter([1.0]) == 0
    assert jitter([1.0, 3.0, 2.0]) == 1.5


def test_ports() -> None:
    assert ports_of([22, "80", "8000-8002", 22]) == [22, 80, 8000, 8001, 8002]
    for wrong in ("0", "65536", "5-1", "x", "1-", "-5", "1-2-3"):
        with pytest.raises(ValueError):
            ports_of([wrong])


@pytest.mark.parametrize(
    ("pattern", "url", "fits"),
    [
        ("https://example.com/*", "https://example.com/a/b", True),
        ("https://example.com", "https://example.com/a/b", True),
        ("https://example.com:443/*", "https://example.com/a", True),
        ("https://*.example.com/hooks/*", "https://a.example.com/hooks/x", True),
        ("https://*.example.com/hooks/*", "https://evil.com/.example.com/hooks/x", False),
        ("https://*.example.com/hooks/*", "https://evil.com?.example.com/hooks/x", False),
        ("https://*.example.com/hooks/*", "https://evil.com#.example.com/hooks/x", False),
        ("https://example.com/hooks/*", "https://example.com/hooks/../admin", False),
        ("https://example.com/hooks/*", "https://example.com/hooks/%2e%2e/admin", False),
        ("https://example.com/hooks/*", "https://example.com/hooks/..\\admin", False),
        ("https://example.com/*", "http://example.com/", False),
        ("https://example.com/*", "https://example.com:8443/", False),
        ("https://example.com/*", "https://EXAMPLE.com/", True),
        ("https://example.com/a", "https://example.com/a?b=c", True),
        ("https://example.com/a", "https://example.com/ab", False),
        ("*", "https://example.com/", False),
    ],
)
def test_patterns_of_urls(pattern: str, url: str, fits: bool) -> None:
    assert url_matches(pattern, url) is fits
