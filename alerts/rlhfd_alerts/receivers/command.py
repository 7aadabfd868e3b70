"""Runs a program for each notification: no shell, the body on standard input, killed with its children when late."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import DeliveryError, TargetError
from rlhfd_alerts.message import read
from rlhfd_alerts.target import Fault, Target, TargetSettings
from rlhfd_alerts.text import clip, one_line

__all__ = ["CommandReceiver", "CommandSettings"]

EX_TEMPFAIL = 75
_OUTPUT_BYTES = 4096
_SAID = 200
_PASSED = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER")  # nothing else: the daemon's environment may hold secrets


class CommandSettings(TargetSettings, frozen=True, kw_only=True, tag="command"):
    """``argv`` is started as it is. It may exit with 75 to be tried again later."""

    argv: Annotated[tuple[str, ...], Meta(min_length=1)]

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if not self.argv[0].startswith("/"):
            yield "argv", "begins with the absolute path of a program"
        if self.secret_file or self.secret_env:
            yield "secret_file", "a command reads its secrets itself"


class CommandReceiver:
    """One program."""

    def __init__(self, target: Target[CommandSettings], context: Context) -> None:
        self._argv = target.settings.argv
        self._timeout = target.settings.timeout_seconds
        self._context = context
        if shutil.which(self._argv[0]) is None:
            raise TargetError(f"target {target.name!r}: {self._argv[0]} is no program that can be started")

    async def send(self, notification_id: str, body: bytes, now: float) -> str:
        """Run it; what it printed is returned."""
        message = read(notification_id, body, self._context)
        environ = {name: os.environ[name] for name in _PASSED if name in os.environ}
        environ |= {
            "RLHFD_NOTIFICATION": message.id,
            "RLHFD_STATE": "firing" if message.is_firing else "resolved",
            "RLHFD_SEVERITY": message.severity.value,
            "RLHFD_ALERT_RUN": message.run,  # not RLHFD_RUN: that one makes rlhfd observe a process
            "RLHFD_TITLE": clip(message.title, 1000),
        }
        process = await self._start(environ)
        try:
            output, _ = await asyncio.wait_for(asyncio.gather(_output(process), _feed(process, body)), self._timeout)
            code = await asyncio.wait_for(process.wait(), self._timeout)
        except asyncio.TimeoutError:
            raise DeliveryError(f"the command took longer than {self._timeout:g} s", permanent=False) from None
        finally:
            await _end(process)
        said = clip(one_line(output.decode("utf-8", "replace")), _SAID)
        if code != 0:
            text = f"the command ended with {code}" + (f": {said}" if said else "")
            raise DeliveryError(text, permanent=code != EX_TEMPFAIL and code > 0)
        return said

    async def _start(self, environ: dict[str, str]) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        try:
            return await asyncio.create_subprocess_exec(
                *self._argv, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT,
                env=environ, cwd="/", start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            raise DeliveryError(f"the command cannot be started: {reason}", permanent=False) from None


async def _feed(process: asyncio.subprocess.Process, body: bytes) -> None:
    """Write the body; a program need not read it."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(body)
        await process.stdin.drain()
    process.stdin.close()


async def _output(process: asyncio.subprocess.Process) -> bytes:
    """The beginning of what it prints; the rest is read and dropped, so that it is not held up."""
    assert process.stdout is not None
    kept = b""
    while chunk := await process.stdout.read(_OUTPUT_BYTES):
        kept = (kept + chunk)[:_OUTPUT_BYTES]
    return kept


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the program and whatever it started that is still in its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
