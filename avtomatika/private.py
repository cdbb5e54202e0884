"""Files that only their owner may read: tokens, passwords, configuration that holds them."""

from __future__ import annotations

import os
import secrets
import shlex
import stat
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


def too_open(path: Path) -> str | None:
    """What is wrong with a secret's file, with the fix; None where nothing is, or where it is not on this machine.

    As OpenSSH does: a file of this process's own user that others may read is refused; one that belongs to another user, as
    mounted secrets do, is that one's affair.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and found.st_mode & 0o077:
        return f"{path} may be read by others (mode {found.st_mode & 0o777:o}): chmod 600 {shlex.quote(str(path))}"
    return None
