"""Is what is there a beginning of the file? A hash shows it, or else its last bytes; its size alone never does."""

from __future__ import annotations

import ftplib
import hashlib
from socket import socket
from typing import BinaryIO

from avtomatika.operations.context import OperationContext
from avtomatika.operations.ftp.session import BLOCK, Session

#: Bytes that are compared where the server has no hash.
OVERLAP = 65536


def hash_of(file: BinaryIO, length: int, algorithm: str, op: OperationContext) -> str:
    """The hash of a file's first bytes, in hexadecimal digits."""
    found = hashlib.new(algorithm, usedforsecurity=False)
    file.seek(0)
    while length > 0 and (block := file.read(min(length, 16 * BLOCK))):
        op.checkpoint()
        found.update(block)
        length -= len(block)
    return found.hexdigest()


def bytes_before(file: BinaryIO, end: int) -> bytes:
    """The last bytes of the first `end` ones of a file: what is compared."""
    begin = max(0, end - OVERLAP)
    file.seek(begin)
    return file.read(end - begin)


def exactly(conn: socket, length: int, op: OperationContext) -> bytes:
    """So many bytes; fewer where the connection ends before."""
    found = bytearray()
    while len(found) < length and (block := conn.recv(length - len(found))):
        op.checkpoint()
        found += block
    return bytes(found)


def is_beginning(ftp: Session, path: str, length: int, file: BinaryIO) -> str | None:
    """Whether a whole remote file of this length begins the local one.

    Returns:
        What shows it: the name of a hash, or ``overlap``; None where nothing does.
    """
    found = ftp.hash(path)
    if found is not None:
        algorithm, digest = found
        return algorithm if hash_of(file, length, algorithm, ftp.op) == digest else None
    wanted = bytes_before(file, length)
    try:
        with ftp.transfer(f"RETR {path}", length - len(wanted)) as conn:
            # One more than expected: it must end here.
            tail = exactly(conn, len(wanted) + 1, ftp.op)
    except (ftplib.error_perm, ftplib.error_temp):
        return None  # it may not be read, or not from its middle
    return "overlap" if tail == wanted else None
