"""What `rlhfd status` shows of open episodes."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from rlhfd_daemon.render import render

EPISODE: dict[str, Any] = {
    "id": "ep_1", "run": "ppo", "severity": "warning", "rule": "level_change", "metric": "a", "onset_step": 61,
    "summary": "a fell", "confidence": 0.7, "firing": 7, "metrics": ["a", "b", "c", "d", "e", "f", "g"],
}  # fmt: skip
ANSWER: dict[str, Any] = {
    "version": "1", "pid": 1, "time": 10.0, "started_at": 0.0, "endpoint": "ipc:///x", "reload_error": None,
    "ingest": {"frames_total": 1, "duplicates_total": 0, "rejected_total": {}},
    "framelog": {"bytes": 0, "segments": 1, "degraded": None}, "targets": {}, "runs": [], "alerts": [], "episodes": [],
}  # fmt: skip


def shown(**changes: Any) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render({**ANSWER, **changes}))
    return capture.get()


def test_nothing_wrong_is_said() -> None:
    assert "no alert is firing" in shown()


def test_an_episode_is_one_line_with_its_first_cause_and_what_else() -> None:
    (line,) = (line for line in shown(episodes=[EPISODE]).splitlines() if "level_change" in line)
    for text in ("ppo", "warning", "61", "a fell; also b, c, d, e and 2 more", "7", "0.70"):
        assert text in line


def test_the_worst_comes_first_and_an_alert_without_an_episode_is_shown_too() -> None:
    worse = {**EPISODE, "severity": "critical", "rule": "non_finite", "onset_step": None}
    alone = {
        "episode": "", "run": "old", "severity": "info", "rule": "hint", "metric": "x", "onset_step": 1,
        "summary": "from before",
    }  # fmt: skip
    text = shown(episodes=[EPISODE, worse], alerts=[alone, {**alone, "episode": "ep_1", "rule": "member"}])
    assert text.index("non_finite") < text.index("level_change") < text.index("hint")
    assert "member" not in text


def test_names_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in shown(episodes=[{**EPISODE, "summary": "\x1b[2Jgone"}])
