"""What has to be known of targets after a restart: which are disabled, and of which an alert tells that they fail."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

__all__ = ["TargetState", "TargetStates"]

log = structlog.get_logger()


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """``disabled_at`` (unix seconds): since when the target wants nothing more, with what it said; ``degraded``: an
    alert tells that it fails."""

    disabled_at: float | None = None
    error: str = ""
    degraded: bool = False


class TargetStates:
    """A small file, replaced as a whole. One that cannot be read or written is as good as none: then a target that is
    gone is asked once more after a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states = self._read()

    @property
    def known(self) -> Mapping[str, TargetState]:
        """By name; those that have nothing to tell are not among them."""
        return self._states

    def set(self, name: str, state: TargetState) -> None:
        """Keep ``state``; written only if it is new."""
        if state == self._states.get(name, TargetState()):
            return
        self._states = {**self._states, name: state}
        if state == TargetState():
            del self._states[name]
        self._write()

    def _read(self) -> dict[str, TargetState]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, TargetState])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("state of the targets cannot be read", path=str(self._path), error=str(error))
            return {}

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(self._states))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.warning("state of the targets cannot be written", path=str(self._path), error=error.strerror)
