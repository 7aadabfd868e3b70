"""The emitter's few words to the training's log: at most one line a minute per cause."""

from __future__ import annotations

import logging
import time

INTERVAL_SECONDS = 60.0
_last: dict[str, float] = {}


def warn(cause: str, message: str, *args: object) -> None:
    """Log ``message`` at WARNING on the logger ``rlhfd`` unless ``cause`` was logged in the last minute."""
    now = time.monotonic()
    if now - _last.get(cause, -INTERVAL_SECONDS) < INTERVAL_SECONDS:
        return
    _last[cause] = now
    logging.getLogger("rlhfd").warning(message, *args)
