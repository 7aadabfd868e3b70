"""Pollers keep their pace, a failing one is counted and asked less often, and none of them stops another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from rlhfd_daemon.observation import Observation, Subject, node
from rlhfd_daemon.pollers.schedule import Schedule, pause_seconds

SEEN = Observation(subject=Subject("node:x", "b"), metrics={"host/cpu_ratio": 0.5})


class Counting:
    """Sees one thing at each turn, or fails."""

    def __init__(self, name: str, fails: bool = False, hangs: bool = False) -> None:
        self.name = name
        self.interval_seconds = 0.01
        self.stopped = 0
        self._fails = fails
        self._hangs = hangs

    async def poll(self, now: float) -> Iterable[Observation]:
        if self._hangs:
            await asyncio.Event().wait()
        if self._fails:
            raise OSError("the sensor is gone")
        return [SEEN]

    async def stop(self) -> None:
        self.stopped += 1
        if self._fails:
            raise OSError("still gone")


def test_a_failing_and_a_hanging_poller_disturb_nobody() -> None:
    pollers = [Counting("good"), Counting("bad", fails=True), Counting("hanging", hangs=True)]
    recorded: list[Observation] = []

    async def run() -> Schedule:
        enough = asyncio.Event()

        def record(seen: Sequence[Observation], now_ns: int) -> None:
            recorded.extend(seen)
            if len(recorded) >= 5:
                enough.set()

        schedule = Schedule(pollers, record)
        schedule.start()
        await asyncio.wait_for(enough.wait(), 10)
        await schedule.stop()
        await schedule.stop()
        return schedule

    health = asyncio.run(run()).health
    assert recorded[:5] == [SEEN] * 5
    assert (health["good"].failures, health["good"].last_error) == (0, None)
    assert health["good"].observations >= 5
    assert health["bad"].failures >= 1
    assert health["bad"].last_error == "OSError: the sensor is gone"
    assert health["bad"].observations == health["hanging"].observations == 0
    assert all(poller.stopped == 2 for poller in pollers)


@pytest.mark.parametrize(
    ("interval", "since_start", "took", "failed", "pause"),
    [
        (5.0, 0.0, 0.5, 0, 4.5),
        (5.0, 10.25, 0.25, 0, 4.5),  # back to the grid
        (5.0, 0.0, 7.0, 0, 7.0),  # never more than half of the time
        (1.0, 0.0, 0.1, 1, 1.0),
        (1.0, 0.0, 0.1, 4, 8.0),
        (1.0, 0.0, 0.1, 99, 60.0),
        (300.0, 0.0, 0.1, 9, 300.0),
    ],
)
def test_the_pause_follows_the_interval_the_effort_and_the_failures(
    interval: float, since_start: float, took: float, failed: int, pause: float
) -> None:
    assert pause_seconds(interval, since_start, took, failed) == pytest.approx(pause)


def test_the_node_is_a_subject_with_the_kernel_s_boot_id() -> None:
    subject = node()
    assert subject.run.startswith("node:")
    assert len(subject.boot) == 36
