"""Asks the daemon, over the control socket beside its endpoint, what its live processes said of their hooks."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhfd_emitter.endpoint import ipc_path

SOCKET_NAME = "control.sock"
ANSWER_SECONDS = 2.0
MAX_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Trouble:
    """``text``: what is wrong with ``hook``, in the daemon's words; ``who``: the first process that says so, and how
    many more do."""

    hook: str
    text: str
    who: str

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.text.startswith(("missing", "changed")):
            return "nothing: it stays unseen in the version that runs (docs/versions.md)"
        return "the training is as it was, and this is not seen: report the error with OpenRLHF's version"


@dataclass(frozen=True)
class LiveHooks:
    """``processes``: how many are live. ``unknown`` says why the daemon could not be asked."""

    processes: int = 0
    troubles: tuple[Trouble, ...] = ()
    unknown: str = ""


def live_hooks(endpoint: str, absent: Collection[str] = (), seconds: float = ANSWER_SECONDS) -> LiveHooks | None:
    """What is known of the hooks; ``None`` where the daemon has no control socket beside its ``endpoint``.

    That those in ``absent`` are missing is not repeated: the installed version has no such function.
    """
    path = ipc_path(endpoint)
    control = None if path is None else Path(path).with_name(SOCKET_NAME)
    try:
        return None if control is None else _read(_get(control, "/api/v1/topology", seconds), absent)
    except FileNotFoundError:
        return None
    except PermissionError:
        return LiveHooks(unknown=f"{control} is for the daemon's user only")
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
        return LiveHooks(unknown=f"{control}: {type(error).__name__}: {error}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("rlhfd", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _get(control: Path, url: str, seconds: float) -> Any:
    connection = _UnixConnection(control, seconds)
    try:
        connection.request("GET", url)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise ValueError(f"answered {response.status}")
        return json.loads(response.read(MAX_BYTES))
    finally:
        connection.close()


def _read(answer: Mapping[str, Any], absent: Collection[str]) -> LiveHooks:
    live = [one for run in answer["runs"] for one in run["processes"] if one["ended"] is None]
    found: dict[tuple[str, str], list[str]] = {}
    for one in live:
        for hook, text in one["hooks"].items():
            if hook not in absent or not text.startswith("missing"):
                found.setdefault((_printable(hook), _printable(text)), []).append(_printable(_who(one)))
    return LiveHooks(len(live), tuple(Trouble(*about, _first_of(names)) for about, names in found.items()))


def _who(one: Mapping[str, Any]) -> str:
    rank = "" if one["rank"] is None else f" rank {one['rank']}"
    return f"{one['role']}{rank} pid {one['pid']}"


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
