"""Every error the daemon raises on purpose; foreign exceptions are converted to one of these at the border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "FAILED",
    "CheckpointError",
    "ConfigError",
    "ControlError",
    "DaemonError",
    "DemoError",
    "EndpointError",
    "FrameLogError",
    "Problem",
    "StateError",
    "StateLocked",
    "TraceError",
]

FAILED = 2
"""Exit code of a command for an error that has none of its own."""


class DaemonError(Exception):
    """Root of the daemon's errors; ``exit_code`` is what the command line exits with (see sysexits.h)."""

    exit_code = 1


class CheckpointError(DaemonError):
    """A checkpoint cannot be looked at as asked."""


class FrameLogError(DaemonError):
    """A frame log or recording cannot be read as asked, or is used before ``open`` or after ``close``."""


class StateError(DaemonError):
    """The state directory cannot be created or used."""

    exit_code = 73  # EX_CANTCREAT


class StateLocked(StateError):  # noqa: N818 - says what is, like BlockingIOError
    """Another daemon holds the state directory. ``pid`` is ``None`` if the holder has not written it yet."""

    exit_code = 75  # EX_TEMPFAIL

    def __init__(self, path: str, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(f"{path}: already in use by {holder}; one daemon runs per state directory")


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a configuration: the dotted ``field`` ("" for the file as a whole) and what is wrong."""

    field: str
    message: str


class ConfigError(DaemonError):
    """The configuration cannot be used; ``problems`` holds everything that was found wrong, one line each."""

    exit_code = 2

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__(message)

    @classmethod
    def of(cls, source: str, problems: Sequence[Problem]) -> ConfigError:
        """All ``problems`` of the file ``source``, as ``file: field: what is wrong`` lines."""
        lines = (": ".join(part for part in (source, one.field, one.message) if part) for one in problems)
        return cls("\n".join(lines), problems)


class EndpointError(DaemonError):
    """The daemon cannot listen where it was told to."""

    exit_code = 73  # EX_CANTCREAT


class ControlError(DaemonError):
    """The running daemon does not answer, or refused."""

    exit_code = 69  # EX_UNAVAILABLE


class DemoError(DaemonError):
    """The demo did not come to the end it promises."""


class TraceError(DaemonError):
    """A log of a run that cannot be read: what is wrong with it, where, and what to do instead."""

    exit_code = 3
