"""What was found of each checkpoint of a run, one JSON line each, beside the run's steps."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import structlog

from rlhfd_daemon.checkpoints.judgement import Judgement
from rlhfd_daemon.outlets.step_files import folder_of

__all__ = ["History"]

FILE = "checkpoints.jsonl"
MAX_KEPT = 1000
log = structlog.get_logger()


class History:
    """Files below ``root``; the newest ``MAX_KEPT`` lines are read, and kept once there are twice as many."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def of(self, run: str, boot: str) -> list[Judgement]:
        """Oldest first; lines that cannot be read are left out."""
        try:
            lines = (folder_of(self._root, run, boot) / FILE).read_bytes().splitlines()
        except OSError:
            return []
        found = []
        for line in lines[-MAX_KEPT:]:
            try:
                found.append(msgspec.json.decode(line, type=Judgement))
            except msgspec.MsgspecError:
                continue
        return found

    def launches(self, run: str) -> list[str]:
        """The launches of ``run`` of which there is something, by the time of the last judgement."""
        found = [path for path in folder_of(self._root, run, "x").parent.glob(f"*/{FILE}") if path.is_file()]
        return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime)]

    def add(self, run: str, boot: str, judgement: Judgement) -> None:
        """Append; what cannot be written is said in the log and not kept."""
        folder = folder_of(self._root, run, boot)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / FILE).open("ab") as file:
                file.write(msgspec.json.encode(judgement) + b"\n")
            if judgement.step is not None and (folder / FILE).stat().st_size > MAX_KEPT * 100_000:
                self._shorten(run, boot, folder)
        except OSError as error:
            log.warning("judgement of a checkpoint not kept", path=judgement.path, error=str(error))

    def _shorten(self, run: str, boot: str, folder: Path) -> None:
        kept = self.of(run, boot)
        fresh = folder / f"{FILE}.new"
        fresh.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in kept))
        os.replace(fresh, folder / FILE)
