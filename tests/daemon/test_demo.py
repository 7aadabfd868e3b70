"""What the demo shows of a webhook call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from rlhfd_alerts.content import body
from rlhfd_alerts.finding import Finding
from rlhfd_alerts.grouping import group
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.testing import example_finding
from rlhfd_daemon.demo import panel
from rlhfd_daemon.episodes import Episodes


@pytest.fixture
def bodies() -> list[dict[str, Any]]:
    """Of an episode that one metric begins, another joins, and that is over."""
    lifecycle, episodes = Lifecycle(), Episodes()
    sent: list[dict[str, Any]] = []

    def record(number: int, finding: Finding) -> None:
        found = lifecycle.observe(finding, number)
        assert found is not None
        sent.extend(body(one) for one in group(episodes.follow([found])))

    begun = (example_finding(), example_finding(metric="b"))
    for number, finding in enumerate((*begun, *(replace(one, active=False) for one in begun))):
        record(number, finding)
    return sent


def shown(content: dict[str, Any]) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(panel(content))
    return capture.get()


def test_a_call_shows_what_broke_since_when_how_sure_and_what_to_do(bodies: list[dict[str, Any]]) -> None:
    opened, over = map(shown, bodies)
    for text in (
        "FIRING warning kl_runaway",
        "train/kl",
        "since step 112",
        "confidence 0.",
        "What to do: raise the KL",
    ):
        assert text in opened
    assert "RESOLVED" in over
    assert "What to do" not in over
    assert [line.split()[1] for line in over.splitlines() if "since step" in line] == ["b", "train/kl"]


def test_a_call_about_an_alert_without_an_episode_is_shown_too(bodies: list[dict[str, Any]]) -> None:
    alone = {**bodies[0], "data": {**bodies[0]["data"], "episode": None}}
    assert "since step 112" in shown(alone)
