"""Uploads and downloads: under another name until they are whole, gone on with after a break, verified."""

from __future__ import annotations

import posixpath
import time
from pathlib import Path

from avtomatika.errors import ErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.ftp.download import Download
from avtomatika.operations.ftp.family import family
from avtomatika.operations.ftp.params import FtpDownload, FtpUpload, guard
from avtomatika.operations.ftp.upload import Upload
from avtomatika.results import JSON


def _run(work: Upload | Download, op: OperationContext) -> JSON:
    """Does it; after a cancel, and after a failure that no other attempt will mend, its part is cleared away."""
    began = time.monotonic()
    try:
        result = work.run()
    except OperationStopped as exc:
        if exc.reason is StopReason.CANCEL:
            work.clear()
        raise
    except OperationError as exc:
        if exc.kind is not ErrorCode.TRANSIENT:
            work.clear()
        raise
    op.progress(1.0, "done")
    return {**result, "duration": round(time.monotonic() - began, 3)}


@family.operation("ftp_upload", timeout_seconds=3600, pausable=True, guard=guard)
def ftp_upload(params: FtpUpload, op: OperationContext) -> JSON:
    """Uploads a file: under another name until it is whole, and going on where an earlier attempt stopped."""
    source = op.permit.local_path(params.local_path)
    return _run(Upload(params, op, source, op.permit.remote_path(params.remote_paths()[0])), op)


@family.operation("ftp_download", timeout_seconds=3600, pausable=True, guard=guard)
def ftp_download(params: FtpDownload, op: OperationContext) -> JSON:
    """Downloads a file: under another name until it is whole, and going on where an earlier attempt stopped."""
    target = op.permit.local_path(params.local_paths()[0])
    if target.is_dir():
        target = op.permit.local_path(Path(target, posixpath.basename(params.remote_path)))
    return _run(Download(params, op, op.permit.remote_path(params.remote_path), target), op)
