"""Asks the file system what may hang, in a child process, and goes on without the answer if it does not come.

A thread would not do: one that hangs in the kernel keeps the whole daemon from ending, with its lock and its sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import read, set_blocking
from pathlib import Path
from typing import Any

from rlhfd_daemon.process_state import state_letter

__all__ = ["Prober", "Stuck"]

COMMAND = (sys.executable, "-I", "-S", str(Path(__file__).with_name("probe_child.py")))
STOP_SECONDS = 0.5
MAX_ANSWER_BYTES = 1 << 20
_unreaped: list[subprocess.Popen[bytes]] = []  # killed, but not gone within STOP_SECONDS


@dataclass(frozen=True)
class Stuck:
    """No answer yet, after ``seconds``. ``pid`` is the child that waits for it, ``state`` its letter (see proc(5))."""

    seconds: float
    pid: int
    state: str | None


class _Child:
    """One process, which answers one question at a time."""

    def __init__(self, command: Sequence[str], max_answer_bytes: int) -> None:
        _unreaped[:] = [one for one in _unreaped if one.poll() is None]
        # A group of its own, so that Ctrl-C does not reach it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", bufsize=0,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        set_blocking(self._stdout.fileno(), False)
        self._read = b""
        self._max_answer_bytes = max_answer_bytes

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: Mapping[str, object]) -> None:
        self._stdin.write(json.dumps(question).encode() + b"\n")

    def answer(self) -> dict[str, Any] | None:
        """The answer, if it is there. :raises EOFError: the child has ended."""
        with contextlib.suppress(BlockingIOError):
            while b"\n" not in self._read:
                chunk = read(self._stdout.fileno(), 1 << 16)
                if not chunk or len(self._read) > self._max_answer_bytes:
                    raise EOFError("the probing child has ended")
                self._read += chunk
        line, newline, rest = self._read.partition(b"\n")
        if not newline:
            return None
        self._read = rest
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def answer_within(self, seconds: float) -> dict[str, Any] | None:
        """The answer, waited for. :raises EOFError: the child has ended."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        deadline = loop.time() + seconds
        loop.add_reader(self._stdout.fileno(), arrived.set)
        try:
            while (answer := self.answer()) is None and loop.time() < deadline:
                arrived.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(arrived.wait(), deadline - loop.time())
        finally:
            loop.remove_reader(self._stdout.fileno())
        return answer

    def kill(self) -> None:
        """One that hangs in the kernel stays, but holds nothing of ours."""
        self._process.kill()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _unreaped.append(self._process)
        self._stdin.close()
        self._stdout.close()


class Prober:
    """At most one child waits for each ``key`` (a mount), and one more is there for all that answer.

    Used by one task. ``patience_seconds`` is how long an answer is waited for before the child is left alone with it,
    ``command`` the program that the children are, which speaks as ``probe_child`` does.
    """

    def __init__(
        self,
        patience_seconds: float = 1.0,
        mono: Callable[[], float] = time.monotonic,
        command: Sequence[str] = COMMAND,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._patience = patience_seconds
        self._mono = mono
        self._command = command
        self._max_answer_bytes = max_answer_bytes
        self._idle: _Child | None = None
        self._stuck: dict[str, tuple[_Child, float]] = {}

    async def ask(self, key: str, question: Mapping[str, object]) -> dict[str, Any] | Stuck:
        """The answer (see ``probe_child``), or for how long it is being waited for. While a question about ``key`` is
        stuck no other is asked: its late answer is what is returned. :raises EOFError: the child was killed."""
        if key in self._stuck:
            return self._late(key)
        child = self._idle = self._idle or _Child(self._command, self._max_answer_bytes)
        asked = self._mono()
        try:
            child.ask(question)
            answer = await child.answer_within(self._patience)
        except (OSError, EOFError, ValueError) as error:
            self._idle = None
            child.kill()
            raise EOFError(f"the probing child ended: {error}") from error
        except asyncio.CancelledError:  # its answer would be taken for that to the next question
            self._idle = None
            child.kill()
            raise
        if answer is not None:
            return answer
        self._idle = None
        self._stuck[key] = child, asked
        return self._report(child, asked)

    @property
    def stuck(self) -> frozenset[str]:
        """The keys with a question that has no answer yet."""
        return frozenset(self._stuck)

    def stop(self) -> None:
        """End all children. Safe to call twice."""
        children = [child for child, _ in self._stuck.values()]
        for child in [*children, *([self._idle] if self._idle else [])]:
            child.kill()
        self._stuck, self._idle = {}, None

    def _late(self, key: str) -> dict[str, Any] | Stuck:
        child, asked = self._stuck[key]
        try:
            answer = child.answer()
        except (EOFError, ValueError):
            del self._stuck[key]
            child.kill()
            raise
        if answer is None:
            return self._report(child, asked)
        del self._stuck[key]
        if self._idle is None:
            self._idle = child
        else:
            child.kill()
        return answer

    def _report(self, child: _Child, asked: float) -> Stuck:
        return Stuck(self._mono() - asked, child.pid, state_letter(child.pid))
