"""Files that only their owner may read: tokens, passwords, configuration that holds them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Writes a file of mode 600, whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.new")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def kept_secret(path: Path) -> tuple[str, bool]:
    """The secret in a file, made at first use, and whether it was made now."""
    try:
        secret = path.read_text().strip()
    except FileNotFoundError:
        secret = ""
    if secret:
        path.chmod(0o600)
        return secret, False
    secret = secrets.token_hex(32)
    write_private(path, secret + "\n")
    return secret, True
