"""The daemon's own log: one line per event, readable on a terminal, JSON elsewhere, repeats thinned out."""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TextIO

import structlog
from structlog.processors import CallsiteParameter, CallsiteParameterAdder
from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["RepeatLimiter", "configure"]

REPEAT_SECONDS = 10.0
MAX_REMEMBERED = 1024


class RepeatLimiter:
    """Lets one line per key and ``interval`` seconds through and counts the rest. Not for several threads without
    the GIL's help: a lost count is harmless. Memory: the ``MAX_REMEMBERED`` keys seen last."""

    def __init__(self, interval: float = REPEAT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._seen: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()

    def admit(self, *key: object) -> int | None:
        """How many lines with this key were held back since the last one let through, or ``None``: hold back."""
        now = self._clock()
        since, held_back = self._seen.get(key, (now - self._interval, 0))
        if now - since < self._interval:
            self._seen[key] = (since, held_back + 1)
            return None
        self._seen[key] = (now, 0)
        self._seen.move_to_end(key)
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return held_back


class _LimitEvents:
    """The limiter as a structlog processor; expects the call site from ``CallsiteParameterAdder`` and removes it."""

    def __init__(self, limiter: RepeatLimiter) -> None:
        self._limiter = limiter

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        repeats = self._limiter.admit(event.get("event"), event.pop("pathname", ""), event.pop("lineno", 0))
        if repeats is None:
            raise structlog.DropEvent
        if repeats:
            event["repeats"] = repeats
        return event


class _LimitRecords(logging.Filter):
    """The limiter for lines of libraries that use the standard library's logging."""

    def __init__(self, limiter: RepeatLimiter) -> None:
        super().__init__()
        self._limiter = limiter

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "_from_structlog") or isinstance(record.msg, dict):
            return True  # came through the processor
        repeats = self._limiter.admit(record.msg, record.pathname, record.lineno)
        if repeats:
            record.repeats = repeats
        return repeats is not None


def configure(
    level: str = "info",
    format: str = "auto",  # noqa: A002 - the name of the setting
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send structlog's and the standard library's log lines of at least ``level`` to ``stream`` (standard error).

    ``format`` is ``console``, ``json``, or ``auto``: console if the stream is a terminal. Times are ISO 8601, UTC.
    Replaces what an earlier call set up.
    """
    stream = sys.stderr if stream is None else stream
    limiter = RepeatLimiter(clock=clock)
    common: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            CallsiteParameterAdder({CallsiteParameter.PATHNAME, CallsiteParameter.LINENO}),
            _LimitEvents(limiter),
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_LimitRecords(limiter))
    handler.setFormatter(_formatter(format == "console" or (format == "auto" and stream.isatty()), common))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def _formatter(is_console: bool, common: list[Processor]) -> logging.Formatter:
    endings: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if is_console:
        endings += [structlog.dev.ConsoleRenderer(colors=True)]
    else:
        endings += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*common, structlog.stdlib.ExtraAdder({"repeats"})], processors=endings
    )
