"""A command on the other side: run with both its streams read, its time kept, and its whole process group ended on a stop."""

from __future__ import annotations

import contextlib
import logging
import re
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avtomatika.errors import AvtomatikaError
from avtomatika.operations.ssh.capture import Capture, Lines
from avtomatika.operations.ssh.connect import UNSTOPPED, Connection, Stops, reconnected
from avtomatika.operations.ssh.failures import AuthenticationFailed, ConnectionFailed
from avtomatika.operations.ssh.shell import Script, kill_script

if TYPE_CHECKING:
    import paramiko

logger = logging.getLogger(__name__)

#: Bytes that are read, and written, at a time.
_BLOCK = 64 * 1024
_TICK = 0.1
#: A command has ended, and something that it left behind holds its output open: as long is still listened to.
_AFTER_EXIT = 1.0
#: Of what comes on stderr before the command's own process id.
_MAX_BEFORE = 64 * 1024
#: How long a command may take to end, TERM first; and how long all of that may take on a bad line.
GRACE_SECONDS, _KILL_SECONDS, _SIGNAL_SECONDS = 2.0, 10.0, 1.0
#: What util-linux's su asks, in whatever words of any language: it ends with a colon.
_SU_PROMPT = r"[^\n:]*: ?\Z"


class TimedOut(Exception):
    """The command took longer than it may, and was ended; `why` says which of its times was over."""

    def __init__(self, why: str, ended: Ended) -> None:
        super().__init__(why)
        self.ended = ended


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left.

    Attributes:
        exit_code: None where a signal ended it, or it was killed.
        signal: such as ``SIGKILL``.
    """

    exit_code: int | None
    signal: str | None
    stdout: Capture
    stderr: Capture
    duration: float


class RemoteProcess:
    """One command on one channel.

    Args:
        stdin: what it reads; `Script.stdin` is to be true.
        password: for sudo or su.
        show: gets each line of output and whether it came on stderr.
        limit: bytes that are kept of each stream.
        is_killer: it ends another one, and is not ended in turn.
    """

    def __init__(
        self,
        connection: Connection,
        script: Script,
        *,
        stdin: bytes = b"",
        password: str | None = None,
        show: Callable[[str, bool], None] = lambda line, is_error: None,
        limit: int = 1024 * 1024,
        is_killer: bool = False,
    ) -> None:
        self._connection = connection
        self._script = script
        self._stdin = memoryview(stdin)
        self._password = password
        self._stdout, self._stderr = Capture(limit), Capture(limit)
        self._lines = Lines(lambda line: show(line, False)), Lines(lambda line: show(line, True))
        self._before = b""  # of stderr, until every mark has come
        self._pids: list[int] = []
        self._asked = 0
        self._is_killer = is_killer
        self._wrote = False
        self._began = self._heard = time.monotonic()

    def run(self, op: Stops, timeout: float | None = None, idle_timeout: float | None = None) -> Ended:
        """Waits for its end.

        Raises:
            TimedOut: after `timeout` seconds, or `idle_timeout` seconds without output; it has been ended.
            OperationStopped: the operation is to stop; it has been ended.
            ConnectionFailed: the connection was lost; what still ran was ended, if the host could be reached again.
            AuthenticationFailed: its user could not be changed.
        """
        with op.on_stop(self._connection.cut):
            channel = self._connection.session()
            channel.exec_command(self._script.text)
        try:
            self._follow(channel, op, timeout, idle_timeout)
        except BaseException:
            if not self._is_killer:
                self._end(channel)
            raise
        finally:
            for lines in self._lines:
                lines.end()
            channel.close()
        return self._ended(channel)

    def _follow(self, channel: paramiko.Channel, op: Stops, timeout: float | None, idle: float | None) -> None:
        poller = select.poll()
        poller.register(channel.fileno(), select.POLLIN)
        exited = None
        while True:
            if self._read(channel):
                self._heard = time.monotonic()
                exited = None
            elif channel.eof_received or channel.closed:
                break
            self._write(channel)
            op.checkpoint()
            now = time.monotonic()
            if timeout is not None and now - self._began > timeout:
                raise TimedOut(f"it took longer than {timeout:g} s", self._killed())
            if idle is not None and now - self._heard > idle:
                raise TimedOut(f"it said nothing for {idle:g} s", self._killed())
            if channel.exit_status_ready():
                exited = exited or now
                if now - exited > _AFTER_EXIT:
                    break
            poller.poll(20 if self._waits_to_write else _TICK * 1000)
        self._await_status(channel, op, timeout)

    def _await_status(self, channel: paramiko.Channel, op: Stops, timeout: float | None) -> None:
        """Its streams are closed; what it ended with comes after that, and a program that closed them itself goes on."""
        while not channel.status_event.wait(_TICK):
            op.checkpoint()
            if timeout is not None and time.monotonic() - self._began > timeout:
                raise TimedOut(f"it took longer than {timeout:g} s", self._killed())
        from avtomatika.operations.ssh.wire import signal_of

        if self._before:
            self._take_error(self._before, final=True)
        if len(self._pids) < self._script.marks and self._script.become is not None and self._pids:
            raise AuthenticationFailed(self._refused())
        if channel.exit_status == -1 and signal_of(channel) is None:
            why = self._connection.gave_up or f"{self._connection.hop.label}: the connection was cut while the command ran"
            raise ConnectionFailed(why)

    # Streams

    def _read(self, channel: paramiko.Channel) -> bool:
        """Whether there was anything. Both streams share one window: whoever waits for one alone waits for ever."""
        found = False
        if channel.recv_ready():
            data = channel.recv(_BLOCK)
            self._stdout.add(data)
            self._lines[0].add(data)
            found = found or bool(data)
        if channel.recv_stderr_ready():
            data = channel.recv_stderr(_BLOCK)
            self._take_error(data)
            self._answer(channel)
            found = found or bool(data)
        return found

    def _take_error(self, data: bytes, *, final: bool = False) -> None:
        """Takes the lines out that tell the process ids; what the shell said before them is kept."""
        if len(self._pids) < self._script.marks and not final:
            self._before += data
            token = self._script.token.encode()
            while found := re.search(rb"^" + token + rb" (\d+)\n", self._before, re.MULTILINE):
                self._pids.append(int(found.group(1)))
                self._before = self._before[: found.start()] + self._before[found.end() :]
            if len(self._pids) < self._script.marks and len(self._before) < _MAX_BEFORE:
                return
            data = self._before
        self._before = b""
        if self._script.become is not None:
            data = data.replace(self._script.prompt.encode(), b"")
        if data:
            self._stderr.add(data)
            self._lines[1].add(data)

    def _answer(self, channel: paramiko.Channel) -> None:
        """Sends the password where it is asked for, once: asked a second time, it is wrong."""
        how = self._script.become
        if how is None or self._password is None or len(self._pids) >= self._script.marks or not self._pids:
            return
        from invoke.watchers import Responder

        said = self._before.decode("utf-8", "replace")
        pattern = re.escape(self._script.prompt) if how.method == "sudo" else _SU_PROMPT
        for response in Responder(pattern, f"{self._password}\n").submit(said):
            self._asked += 1
            if self._asked > 1:
                raise AuthenticationFailed(self._refused())
            self._before = b""
            channel.sendall(response.encode())

    def _refused(self) -> str:
        how = self._script.become
        assert how is not None
        said = self._stderr.end(200).strip() or "nothing was said"
        return f"{self._connection.hop.label} does not become {how.user} by {how.method}: {said}"

    @property
    def _waits_to_write(self) -> bool:
        return bool(self._stdin)

    def _write(self, channel: paramiko.Channel) -> None:
        if not self._script.stdin or len(self._pids) < self._script.marks:
            return
        if self._stdin and channel.send_ready():
            with contextlib.suppress(OSError):  # it reads no more; how it ends tells why
                sent = channel.send(bytes(self._stdin[:_BLOCK]))
                self._stdin = self._stdin[sent:]
        if not self._stdin and not self._wrote:
            from avtomatika.operations.ssh.wire import send_eof

            self._wrote = True
            send_eof(channel)

    # The end

    def _ended(self, channel: paramiko.Channel) -> Ended:
        from avtomatika.operations.ssh.wire import signal_of

        signal = signal_of(channel)
        code = channel.exit_status if signal is None else None
        return Ended(code, signal, self._stdout, self._stderr, time.monotonic() - self._began)

    def _killed(self) -> Ended:
        return Ended(None, None, self._stdout, self._stderr, time.monotonic() - self._began)

    def _end(self, channel: paramiko.Channel) -> None:
        """Ends the whole process group on the other side; a closed channel or a lost connection would let it go on."""
        gone = False
        try:
            gone = (
                self._kill(self._connection)
                or self._signal(channel, "TERM")
                or self._kill_over_another()
                or self._signal(channel, "KILL")
            )
        except Exception as exc:
            logger.debug("ending a remote command: %s", exc, extra={"action": "ssh_kill"})
        if not gone and self._pids:
            logger.warning(
                "a remote command may still run on %s: process group %s",
                self._connection.hop.label,
                ", ".join(map(str, self._pids)),
                extra={"action": "ssh_kill"},
            )

    def _kill(self, connection: Connection) -> bool:
        """Through a channel of its own, as the user that runs it. Whether it is surely gone."""
        import paramiko

        if not self._pids or not connection.is_alive:
            return False
        timer = threading.Timer(_KILL_SECONDS, connection.cut)
        timer.daemon = True
        timer.start()
        script = Script(kill_script(self._pids, GRACE_SECONDS), become=self._script.become)
        killer = RemoteProcess(connection, script, password=self._password, limit=1024, is_killer=True)
        try:
            return "gone" in killer.run(UNSTOPPED).stdout.text
        except (paramiko.SSHException, EOFError, OSError, AvtomatikaError):  # it was cut, or the peer allows one session only
            return False
        finally:
            timer.cancel()

    def _kill_over_another(self) -> bool:
        """Through a new connection, where the old one is lost, or gives no second channel."""
        if not self._pids:
            return False
        connection = reconnected(self._connection, _KILL_SECONDS)
        try:
            return self._kill(connection)
        finally:
            connection.close()

    def _signal(self, channel: paramiko.Channel, name: str) -> bool:
        """By the protocol's own request, which not every server obeys. Whether the command has ended."""
        from avtomatika.operations.ssh.wire import send_signal

        if not self._connection.is_alive:
            return False
        send_signal(channel, name)
        return bool(channel.status_event.wait(_SIGNAL_SECONDS))
