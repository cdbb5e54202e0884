"""A launcher for children that do not outlive their parent, even one that was killed with -9.

``python -I -S _child.py <signal> <parent pid> <program> <argument>…`` asks the kernel to send that signal to this
process once its parent is gone, then becomes the program. It does what a `preexec_fn` would, without running Python
between the fork and the exec of a program with threads. Where there is no such call (not Linux), it just runs the program.

The kernel means the parent's THREAD: see `avtomatika.processes.spawn`.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(sig: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Makes the kernel send `sig` to this process when the thread that started it ends; ends now if `parent` is gone already."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(128 + int(sig))


def _launch(arguments: list[str]) -> None:
    die_with_parent(int(arguments[0]), int(arguments[1]))
    program = arguments[2:]
    try:
        os.execvp(program[0], program)  # noqa: S606
    except OSError as exc:
        sys.exit(f"{program[0]}: {exc.strerror}")


if __name__ == "__main__":
    _launch(sys.argv[1:])
