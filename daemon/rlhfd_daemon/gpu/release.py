"""The file that says until when the GPUs are left alone; it outlives the daemon, however that ends."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["Release"]


class Release:
    """``until``: Unix seconds, infinity for "until told otherwise", ``None`` if they are not released."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "gpu-released-until"
        self.until = self._load()

    def is_on(self, now: float) -> bool:
        """``now`` in Unix seconds."""
        return self.until is not None and now < self.until

    def begin(self, until: float) -> None:
        """:raises OSError: it cannot be written; the GPUs count as released until the daemon ends."""
        self.until = until
        new = self._path.with_suffix(".new")
        with new.open("w") as file:
            file.write(f"{until!r}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)

    def end(self) -> None:
        self.until = None
        self._path.unlink(missing_ok=True)

    def _load(self) -> float | None:
        try:
            until = float(self._path.read_text())
        except (OSError, ValueError):
            return None
        return None if math.isnan(until) else until
