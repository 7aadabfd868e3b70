"""The configuration section of the poller that judges checkpoints."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["CheckpointsConfig"]


class CheckpointsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checkpoints of the runs, from their arguments, and below ``paths``: each is judged once it is complete.

    ``interval_seconds`` is from one look at a folder to the next; where inotify works, a look comes earlier. Bytes are
    read with the lowest priority, at most ``read_bytes_per_second`` (0: no limit); one judgement takes at most
    ``deadline_seconds``. With ``compare`` each is read beside the one before it.
    """

    enabled: bool = True
    interval_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    paths: tuple[str, ...] = ()
    read_bytes_per_second: Annotated[float, Meta(ge=0)] = 500e6
    deadline_seconds: Annotated[float, Meta(ge=1, le=86400)] = 3600.0
    compare: bool = True
    settle_seconds: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    broken_seconds: Annotated[float, Meta(ge=1, le=86400)] = 900.0
