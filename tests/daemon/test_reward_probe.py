"""The daemon's canary for the reward, with a real service that changes, fails and comes back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rlhfd_alerts.testing import Reply, WebhookServer
from rlhfd_daemon.config_reward_probe import RewardProbeConfig
from rlhfd_daemon.observation import Observation
from rlhfd_daemon.pollers.reward_probe import RewardProbePoller


def answer(*rewards: float) -> list[Reply]:
    return [Reply(200, body=json.dumps({"rewards": [reward]}).encode()) for reward in rewards]


def events(found: list[Observation]) -> dict[str, Any]:
    return {str(one.event): one.fields for one in found if one.event is not None}


def rounds(tmp_path: Path, *replies: list[Reply], **settings: Any) -> list[list[Observation]]:
    """What is observed in each round; two pairs are scored in each."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"id": "a", "prompt": "p", "response": "x"}\n{"id": "b", "prompt": "p", "response": "y"}\n')

    async def scenario() -> list[list[Observation]]:
        async with WebhookServer() as server:
            config = RewardProbeConfig(pairs=str(pairs), url=server.url, timeout_seconds=5, **settings)
            poller = RewardProbePoller(config, tmp_path)
            found = []
            for each in replies:
                server.script(*each)
                found.append(list(await poller.poll(0.0)))
            await poller.stop()
            return found

    return asyncio.run(asyncio.wait_for(scenario(), 60))


def test_scores_that_stay_are_no_finding_and_a_changed_one_is_until_it_is_back(tmp_path: Path) -> None:
    first, same, changed, back = rounds(tmp_path, answer(1, 2), answer(1, 2), answer(1, 2.5), answer(1, 2))
    for quiet in (first, same, back):
        assert set(events(quiet)) == {"reward_scores_kept", "reward_probe_answered"}
    fields = events(changed)["reward_scores_changed"]
    assert (fields["count"], fields["pair"], fields["old"], fields["new"]) == (1, "b", 2.0, 2.5)
    assert changed[0].metrics["reward_probe/changed_count"] == 1.0
    kept = json.loads((tmp_path / "reward_baseline.json").read_text())["scores"]
    assert sorted(kept.values()) == [1.0, 2.0], "the first scores stay"


def test_failures_are_told_with_the_reason_and_say_nothing_of_scores(tmp_path: Path) -> None:
    _, failing, back = rounds(tmp_path, answer(1, 2), [Reply(503)] * 4, answer(1, 2))
    fields = events(failing)["reward_probe_failed"]
    assert (fields["failed"], fields["calls"], fields["error"]) == (4, 4, "HTTP status 503")
    assert "reward_scores_kept" not in events(failing)
    assert failing[0].metrics["reward_probe/failed_ratio"] == 1.0
    assert "reward_probe_answered" in events(back)


def test_a_tolerated_share_of_failures_is_no_finding(tmp_path: Path) -> None:
    (found,) = rounds(tmp_path, [Reply(503), *answer(1, 2)], failed_ratio=0.5)
    assert "reward_probe_answered" in events(found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pairs": "p.jsonl"}, "pairs need either url or function"),
        ({"pairs": "p.jsonl", "url": "http://rm", "function": "f.py"}, "pairs need either url or function"),
        ({"url": "http://rm"}, "needs pairs"),
    ],
)
def test_half_a_configuration_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(given, RewardProbeConfig)
