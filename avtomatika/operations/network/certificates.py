"""What a TLS connection shows: its version, and the certificates of the other side."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.results import JSON


@dataclass(frozen=True)
class Certificates:
    """
    Attributes:
        facts: as a result shows them.
        not_after: of the server's own certificate; None where it cannot be read.
    """

    facts: JSON = field(default_factory=dict)
    not_after: datetime | None = None


def read(connection: ssl.SSLObject) -> Certificates:
    """Everything that is known of a connection. Without the package `cryptography` certificates are not looked into."""
    cipher = connection.cipher()
    facts: JSON = {"tls": connection.version(), "cipher": cipher[0] if cipher else None}
    own = connection.getpeercert(binary_form=True)
    if own is None:
        return Certificates(facts)
    with contextlib.suppress(ImportError):
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256

        certificate = x509.load_der_x509_certificate(own)
        not_after = certificate.not_valid_after_utc
        facts |= {
            "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(),
            "names": _names(certificate),
            "not_before": certificate.not_valid_before_utc.isoformat(),
            "not_after": not_after.isoformat(),
            "days_left": (not_after - datetime.now(UTC)).days,
            "fingerprint": f"SHA256:{certificate.fingerprint(SHA256()).hex()}",
            "chain": [x509.load_der_x509_certificate(each).subject.rfc4514_string() for each in _chain(connection)],
        }
        return Certificates(facts, not_after)
    return Certificates(facts)


def check_days(certificates: Certificates, least: int) -> None:
    """Raises OperationError (NETWORK_SSL_ERROR) where the certificate is not good for so many days."""
    if certificates.not_after is None:
        return
    left = (certificates.not_after - datetime.now(UTC)).days
    if left < least:
        raise OperationError(TaskErrorCode.NETWORK_SSL_ERROR, f"the certificate is good for {left} days, not for {least}")


def _names(certificate: Any) -> list[str]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in found if isinstance(name, x509.DNSName | x509.IPAddress)]


def _chain(connection: ssl.SSLObject) -> list[bytes]:
    """The chain that the server sent, its own certificate first. Python has it in public since 3.13, and before that within."""
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    inner = getattr(getattr(connection, "_sslobj", None), "get_unverified_chain", None)
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in (inner() if inner is not None else None) or ()]
