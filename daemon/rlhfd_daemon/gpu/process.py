"""The daemon's hold on the child that calls NVML: starts it, talks to it, sees that it hangs, and lets go of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from rlhfd_daemon.gpu.progress import EVENTS, MAIN, ProgressPage
from rlhfd_daemon.gpu.reading import Failure, Hello, Message, Read, decode
from rlhfd_daemon.process_state import state_letter

__all__ = ["COMMAND", "Child", "Deadlines", "Overdue", "Patience"]

COMMAND = (sys.executable, "-m", "rlhfd_daemon.gpu.child")
PIPE_BYTES = 1 << 18
MAX_LINE_BYTES = 1 << 20
KILL_AFTER_SECONDS = 3.5  # the child gives itself 3 s to end in order
ABANDON_AFTER_SECONDS = 3.0
LOOK_SECONDS = 2.0
WAIT_SECONDS = 1.0  # what waiting for XIDs takes when there are none
# Calls that may wake up a GPU: without persistence mode the driver initialises it, which takes seconds.
SLOW_CALLS = {"nvmlInit", "nvmlShutdown", "nvmlDeviceGetHandleByIndex", "nvmlEventSetCreate"}


class Deadlines(msgspec.Struct, frozen=True):
    """``call_seconds`` for an NVML call, ``start_seconds`` for those that may have to wake a GPU up."""

    call_seconds: float = 5.0
    start_seconds: float = 60.0


class Overdue(msgspec.Struct, frozen=True):
    """A call that hangs: its name ("" between calls), its GPU (-1: none), for how long, and the child's state, a letter
    as in proc(5). ``is_wait``: it is the thread that waits for XIDs."""

    is_wait: bool
    call: str
    gpu: int
    seconds: float
    pid: int
    process_state: str


class Patience:
    """How long a thread of the child has been without progress. Counts only time in which somebody looked, so that
    a machine that slept, or a daemon that was stopped, does not blame the child."""

    def __init__(self) -> None:
        self._marks = -1
        self._looked = 0.0
        self.seconds = 0.0

    def look(self, marks: int, now: float) -> float:
        """``now`` in monotonic seconds; how long ``marks`` has not changed."""
        self.seconds = 0.0 if marks != self._marks else self.seconds + min(now - self._looked, LOOK_SECONDS)
        self._marks, self._looked = marks, now
        return self.seconds


class Child:
    """One child process. Nothing here blocks; ``clock`` is monotonic."""

    def __init__(
        self,
        hello: Hello,
        deadlines: Deadlines,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._page = ProgressPage()
        self._deadlines = deadlines
        self._clock = clock
        # In /, because Python imports from the working directory first, and that belongs to whoever started us. In a
        # session of its own, so that Ctrl-C does not reach it.
        self._process = subprocess.Popen(
            [*command, str(self._page.fd)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[self._page.fd], cwd="/", bufsize=0,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        for end in (self._stdin, self._stdout):
            os.set_blocking(end.fileno(), False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._rest, self._unsent = b"", b""
        self._main, self._events = Patience(), Patience()
        self._ending_since: float | None = None
        self._killed_at: float | None = None
        self.pid = self._process.pid
        self.is_reading = False
        self._send(hello)

    @property
    def is_gone(self) -> bool:
        """Whether it has ended and been reaped."""
        return self._process.poll() is not None

    @property
    def is_ending(self) -> bool:
        return self._ending_since is not None

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    @property
    def is_abandoned(self) -> bool:
        """Whether even SIGKILL did not end it: it hangs in the kernel. Nobody waits for it any more."""
        killed = self._killed_at
        return not self.is_gone and killed is not None and self._clock() - killed > ABANDON_AFTER_SECONDS

    def read(self, skip: Sequence[int]) -> None:
        """Ask for a reading; its messages come by :meth:`receive`."""
        self.is_reading = True
        self._main = Patience()
        self._send(Read(list(skip)))

    def receive(self) -> list[Message]:
        """What the child has said since the last time. Nonsense counts as its failure."""
        self._flush()
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._stdout.fileno(), PIPE_BYTES):
                self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        try:
            if len(self._rest) > MAX_LINE_BYTES:
                raise msgspec.DecodeError("a line without an end")
            return [decode(line) for line in lines]
        except msgspec.MsgspecError as error:
            return [Failure("Protocol", str(error)[:300])]

    def overdue(self) -> Overdue | None:
        """The call that has been hanging for longer than it may, if there is one."""
        now = self._clock()
        if self.is_reading:
            mark = self._page.read(MAIN)
            is_slow = mark.marks == 0 or mark.call in SLOW_CALLS  # 0: still importing
            limit = self._deadlines.start_seconds if is_slow else self._deadlines.call_seconds
            if self._main.look(mark.marks, now) > limit:
                return self.at(MAIN)
        mark = self._page.read(EVENTS)
        if self._events.look(mark.marks, now) > self._deadlines.call_seconds + WAIT_SECONDS and mark.call:
            return self.at(EVENTS)
        return None

    def at(self, slot: int = MAIN) -> Overdue:
        """Where one of its threads is now."""
        mark = self._page.read(slot)
        seconds = (self._events if slot == EVENTS else self._main).seconds
        return Overdue(slot == EVENTS, mark.call, mark.gpu, round(seconds, 1), self.pid, state_letter(self.pid) or "?")

    def end(self) -> None:
        """Ask it to shut NVML down and end; :meth:`push` has to be called until it is gone or abandoned."""
        if self._ending_since is None:
            self._ending_since = self._clock()
            self._stdin.close()

    def push(self) -> None:
        """Kill it if it was to end and has not."""
        if self._ending_since is not None and self._clock() - self._ending_since > KILL_AFTER_SECONDS:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, once."""
        self._ending_since = self._clock() if self._ending_since is None else self._ending_since
        if self._killed_at is None and not self.is_gone:
            self._killed_at = self._clock()
            self._process.kill()

    def close(self) -> None:
        """Give pipes and page back, once it is gone."""
        for end in (self._stdin, self._stdout):
            end.close()
        self._page.close()

    def _send(self, command: Hello | Read) -> None:
        self._unsent += msgspec.json.encode(command) + b"\n"
        self._flush()

    def _flush(self) -> None:
        """A child that does not take it is dead or hangs, which shows by itself. A greeting that tells of thousands of
        refused calls may be longer than the pipe, so the rest goes with the next look."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ValueError):  # ValueError: it was told to end
            while self._unsent:
                self._unsent = self._unsent[os.write(self._stdin.fileno(), self._unsent) :]
