"""The daemon's own log: format by destination, one limiter for repeats, library lines included."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from rlhfd_daemon.logs import MAX_REMEMBERED, RepeatLimiter, configure


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_time_level_logger_and_fields() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    structlog.get_logger("rlhfd.test").warning("segment set aside", path="x")
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line.pop("timestamp"))
    assert line == {"event": "segment set aside", "path": "x", "level": "warning", "logger": "rlhfd.test"}


def test_library_lines_look_the_same() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    logging.getLogger("aiohttp.access").warning("peer %s", "gone")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("peer gone", "warning", "aiohttp.access")


def test_a_terminal_gets_text_and_json_on_demand() -> None:
    terminal = Terminal()
    configure(stream=terminal)
    structlog.get_logger("a").info("hello", n=1)
    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    terminal = Terminal()
    configure(format="json", stream=terminal)
    structlog.get_logger("a").info("hello", n=1)
    assert lines(terminal)[0]["n"] == 1


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    configure(level="warning", stream=stream)
    structlog.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    assert stream.getvalue() == ""


def test_exceptions_are_one_json_line_with_the_traceback() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger("a").exception("failed")
    assert "ValueError: boom" in lines(stream)[0]["exception"]


@pytest.mark.parametrize("is_library", [False, True])
def test_repeats_are_held_back_for_ten_seconds_and_counted(is_library: bool) -> None:
    stream, clock = io.StringIO(), Clock()
    configure(stream=stream, clock=clock)

    def say() -> None:
        if is_library:
            logging.getLogger("lib").warning("again %d", clock.now)
        else:
            structlog.get_logger("own").warning("again", now=clock.now)

    for _ in range(5):
        say()
    clock.now += 9.9
    say()
    clock.now += 0.1
    say()
    assert [line.get("repeats") for line in lines(stream)] == [None, 5]


def test_the_same_words_at_another_place_are_another_line() -> None:
    stream = io.StringIO()
    configure(stream=stream, clock=Clock())
    structlog.get_logger("a").info("same")
    structlog.get_logger("a").info("same")
    assert len(lines(stream)) == 2


def test_the_limiter_remembers_a_bounded_number_of_keys() -> None:
    limiter = RepeatLimiter(clock=Clock())
    for number in range(MAX_REMEMBERED + 1):
        assert limiter.admit(number) == 0
    assert limiter.admit(MAX_REMEMBERED) is None
    assert limiter.admit(0) == 0
