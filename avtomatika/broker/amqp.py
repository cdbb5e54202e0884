"""kombu's AMQP transport with a bound on each answer: a RabbitMQ that is frozen, or cut off without a word, blocks nobody.

Used as ``broker_transport = "avtomatika.broker.amqp:Transport"``. What the hub reads, it reads without waiting: its connections
are watched by heartbeats instead.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import pyamqp

from avtomatika.settings import Settings, get_settings


def heartbeat_seconds(settings: Settings) -> int:
    """Of a consumer's connection: either side takes the other for dead after two of them without a word."""
    return max(2, round(2 * settings.broker_timeout_seconds))


class _Bounded(pyamqp.Transport):
    def establish_connection(self) -> Any:
        connection = super().establish_connection()
        connection.transport.sock.settimeout(get_settings().broker_timeout_seconds)
        return connection


class Transport(_Bounded):
    """AMQP over TCP. A call without an answer after BROKER_TIMEOUT_SECONDS raises TimeoutError, a lost connection to kombu."""


class SSLTransport(_Bounded, pyamqp.SSLTransport):
    """The same over TLS, for URLs that begin with `amqps`."""
