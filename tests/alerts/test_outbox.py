"""What is decided stays decided: transactions, order, crashes, corruption."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhfd_alerts import outbox as outbox_module
from rlhfd_alerts.alert import AlertState, Episode, News, Transition
from rlhfd_alerts.content import body, canonical_json
from rlhfd_alerts.errors import OutboxError
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.grouping import group
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.telling import Outgoing
from rlhfd_alerts.testing import example_finding

COMMIT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from rlhfd_alerts.grouping import group
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.telling import Outgoing
from rlhfd_alerts.testing import example_finding
outbox = Outbox.open(Path(sys.argv[1]))
transition = Lifecycle().observe(example_finding(), 5)
outbox.commit([transition], group([transition]), ["hook"], 5, 100.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    opened = Outbox.open(path)
    yield opened
    opened.close()


def fired(record_id: int = 1, **changes: Any) -> Transition:
    transition = Lifecycle().observe(example_finding(**changes), record_id)
    assert transition is not None
    return transition


def put(outbox: Outbox, *transitions: Transition, targets: tuple[str, ...] = ("hook",), now: float = 100.0) -> None:
    through = max(transition.record_id for transition in transitions)
    outbox.commit(transitions, group(transitions), targets, through, now)


def owed(outbox: Outbox, target: str = "hook", now: float = 100.0) -> list[str]:
    return [json.loads(row.body)["data"]["rule"] for row in outbox.due(target, now, 100)]


def test_a_commit_stores_alerts_deliveries_and_progress(outbox: Outbox, path: Path) -> None:
    transition = fired(record_id=5)
    put(outbox, transition, targets=("hook", "pager"))
    outbox.close()
    again = Outbox.open(path)
    assert again.alerts() == [transition.alert]
    assert again.decided_through() == 5
    assert again.counts() == {("hook", "pending"): 1, ("pager", "pending"): 1}
    (row,) = again.due("pager", 100.0, 10)
    (notification,) = group([transition])
    assert (row.id, row.body, row.attempts) == (notification.id, canonical_json(body(notification)), 0)
    again.close()


def test_committing_the_same_decision_again_adds_nothing(outbox: Outbox) -> None:
    put(outbox, fired())
    (row,) = outbox.due("hook", 100.0, 10)
    outbox.mark_delivered([row], 101.0)
    put(outbox, fired())
    assert outbox.counts() == {("hook", "delivered"): 1}
    assert outbox.due("hook", 1e6, 10) == []


@pytest.mark.parametrize("owed", [True, False])
@pytest.mark.parametrize("reached", [True, False])
def test_what_is_to_be_told_only_if_something_is_owed_still_or_no_more(
    outbox: Outbox, owed: bool, reached: bool
) -> None:
    lifecycle = Lifecycle()
    begun, ended = (lifecycle.observe(example_finding(active=active), 1) for active in (True, False))
    assert begun is not None
    assert ended is not None
    put(outbox, begun, targets=("hook", "pager"))
    outbox.mark_delivered(outbox.due("hook" if reached else "pager", 100.0, 1), 100.0)
    told = [Outgoing("hook", one, owed) for one in group([ended])]
    outbox.tell([ended], told, 2, 100.0)
    targets = [target for (target,) in outbox._db.execute("SELECT target FROM outbox ORDER BY seq")]
    assert targets[2:] == ["hook"] * (owed is not reached)
    outbox.tell([ended], told, 2, 100.0)
    assert sum(outbox.counts().values()) == len(targets), "and once"


def test_progress_starts_at_minus_one_and_never_moves_back(outbox: Outbox) -> None:
    seen = [outbox.decided_through()]
    for record_id in (0, 9, 10, 4):
        outbox.advance(record_id)
        seen.append(outbox.decided_through())
    put(outbox, fired(record_id=3))
    assert [*seen, outbox.decided_through()] == [-1, 0, 9, 10, 10, 10]


def test_a_transaction_is_all_or_nothing(outbox: Outbox) -> None:
    with pytest.raises(AttributeError):
        outbox.commit([fired()], [object()], ["hook"], 1, 100.0)  # type: ignore[list-item]
    assert (outbox.alerts(), outbox.counts(), outbox.decided_through()) == ([], {}, -1)
    put(outbox, fired())


def test_a_full_disk_is_an_outbox_error_and_passes_when_there_is_space_again(outbox: Outbox) -> None:
    (pages,) = outbox._db.execute("PRAGMA page_count").fetchone()
    outbox._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutboxError, match="full"):
        put(outbox, fired(remedy="x" * 100_000))
    assert outbox.counts() == {}
    outbox._db.execute("PRAGMA max_page_count = 1000000")
    put(outbox, fired())
    assert outbox.counts() == {("hook", "pending"): 1}


def test_an_alert_row_follows_its_alert(outbox: Outbox) -> None:
    lifecycle = Lifecycle()
    for active in (True, False):
        transition = lifecycle.observe(example_finding(active=active), 1 if active else 2)
        assert transition is not None
        put(outbox, transition)
    (alert,) = outbox.alerts()
    assert transition is not None
    assert alert == transition.alert
    assert alert.state is AlertState.RESOLVED


def test_an_unreadable_alert_row_hides_no_other(outbox: Outbox) -> None:
    put(outbox, fired(), fired(metric="other"))
    outbox._db.execute("UPDATE alert SET json = '{}' WHERE fingerprint = ?", (fired().alert.fingerprint,))
    assert outbox.alerts() == [fired(metric="other").alert]


def test_the_longest_due_comes_first_and_a_resolution_waits_for_its_firing(outbox: Outbox) -> None:
    lifecycle = Lifecycle()
    firing, other = fired(1), fired(1, rule="other")
    lifecycle.restore([firing.alert])
    resolved = lifecycle.observe(example_finding(active=False), 2)
    assert resolved is not None
    put(outbox, firing, other)
    put(outbox, resolved)
    assert owed(outbox) == ["kl_runaway", "other"]
    assert [row.id for row in outbox.due("hook", 100.0, 1)] == [group([firing])[0].id]
    (first, _) = outbox.due("hook", 100.0, 10)
    outbox.mark_retry([first], 150.0, "down")
    assert owed(outbox, now=100.0) == ["other"]
    (untried, retried) = outbox.due("hook", 150.0, 10)
    assert untried.attempts == 0
    assert (retried.id, retried.attempts, retried.next_at) == (first.id, 1, 150.0)
    outbox.mark_dead([retried], "gone")
    assert group([resolved])[0].id in [row.id for row in outbox.due("hook", 150.0, 10)]
    assert outbox.counts() == {("hook", "pending"): 2, ("hook", "dead"): 1}


def test_an_episode_s_end_waits_for_its_beginning_although_another_rule_heads_it(outbox: Outbox) -> None:
    def told(news: News, rule: str, record_id: int) -> Transition:
        transition = fired(record_id, rule=rule)
        episode = Episode(
            id="ep_1", state=news.state, severity=Severity.WARNING, opening=1, opened_step=1, opened_time=1.0,
            ended_step=None, ended_time=None, members=(transition.alert,), more=0, firing=1, confidence=0.5,
            news=(news,),
        )  # fmt: skip
        return replace(transition, state=news.state, episode=episode)

    put(outbox, told(News.OPENED, "first", 1))
    put(outbox, told(News.RESOLVED, "last", 2))
    assert owed(outbox) == ["first"]
    (row,) = outbox.due("hook", 100.0, 10)
    outbox.mark_delivered([row], 100.0)
    assert owed(outbox) == ["last"]


def test_next_due_is_the_earliest_of_what_is_owed(outbox: Outbox) -> None:
    assert outbox.next_due("hook", 100.0) is None
    put(outbox, fired(), fired(rule="other"))
    for row, next_at in zip(outbox.due("hook", 100.0, 10), (170.0, 160.0), strict=True):
        outbox.mark_retry([row], next_at, "down")
    assert outbox.next_due("hook", 100.0) == 160.0
    assert outbox.next_due("other target", 100.0) is None


def test_a_clock_set_back_by_a_day_does_not_hold_back_deliveries(outbox: Outbox) -> None:
    put(outbox, fired(), now=1e6)
    assert owed(outbox, now=1e6 - 86_400) == ["kl_runaway"]
    assert outbox.next_due("hook", 1e6 - 86_400) == 1e6 - 86_400


def test_settled_deliveries_and_resolved_alerts_are_pruned(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_KEEP_SETTLED", 2)
    monkeypatch.setattr(outbox_module, "_KEEP_RESOLVED", 1)
    put(outbox, *(fired(rule=f"rule{number}") for number in range(5)))
    for row in outbox.due("hook", 100.0, 4):
        outbox.mark_delivered([row], 101.0)
    lifecycle = Lifecycle()
    lifecycle.restore(outbox.alerts())
    for number in range(3):
        resolved = lifecycle.observe(example_finding(rule=f"rule{number}", active=False), 2)
        assert resolved is not None
        outbox.commit([resolved], [], [], 2, 100.0)
    assert outbox.counts() == {("hook", "delivered"): 2, ("hook", "pending"): 1}
    assert [alert.state for alert in outbox.alerts()].count(AlertState.RESOLVED) == 1
    assert len(outbox.alerts()) == 3


def test_promise_D1_a_commit_survives_kill_9_the_moment_it_returns(path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", COMMIT_AND_DIE, str(path)], timeout=30)
    assert died.returncode == -signal.SIGKILL
    outbox = Outbox.open(path)
    assert owed(outbox) == ["kl_runaway"]
    assert (outbox.decided_through(), outbox.moved_aside) == (5, None)
    assert outbox.alerts() == [fired(5).alert]
    outbox.close()


def test_every_commit_reaches_the_disk(outbox: Outbox) -> None:
    assert outbox._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert outbox._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_only_the_owner_can_read_the_file(outbox: Outbox, path: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes.pop("outbox.db") == 0o600
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("content", [b"not a database" * 500, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_corrupt_file_is_moved_aside_and_a_fresh_one_started(path: Path, content: bytes) -> None:
    for number in (1, 2):
        path.write_bytes(content)
        outbox = Outbox.open(path)
        assert outbox.moved_aside == path.with_name(f"outbox.db.corrupt-{number}")
        assert outbox.moved_aside.read_bytes() == content
        put(outbox, fired())
        assert owed(outbox) == ["kl_runaway"]
        outbox.close()


def test_a_corrupt_file_takes_its_log_along(outbox: Outbox, path: Path) -> None:
    put(outbox, fired())
    outbox.close()
    content = bytearray(path.read_bytes())
    content[18] = 9
    path.write_bytes(content)
    path.with_name("outbox.db-wal").write_bytes(b"log")
    Outbox.open(path).close()
    assert path.with_name("outbox.db.corrupt-1-wal").read_bytes() == b"log"


def test_a_damaged_page_is_noticed_at_the_start(outbox: Outbox, path: Path) -> None:
    put(outbox, fired(remedy="x" * 50_000))
    outbox.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    again = Outbox.open(path)
    assert again.moved_aside is not None
    again.close()


def test_any_damaged_header_byte_opens_something_or_is_moved_aside(outbox: Outbox, path: Path, tmp_path: Path) -> None:
    put(outbox, fired())
    outbox.close()
    sound = path.read_bytes()
    for position in range(100):
        folder = tmp_path / str(position)
        folder.mkdir()
        damaged = bytearray(sound)
        damaged[position] ^= 0xFF
        (folder / "outbox.db").write_bytes(damaged)
        again = Outbox.open(folder / "outbox.db")
        put(again, fired(2))
        again.close()
        shutil.rmtree(folder)


def test_a_newer_schema_is_refused_and_left_alone(outbox: Outbox, path: Path) -> None:
    put(outbox, fired())
    outbox._db.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    outbox.close()
    before = path.read_bytes()
    with pytest.raises(OutboxError, match="schema version 2"):
        Outbox.open(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["outbox.db"]


def test_a_locked_or_unreachable_file_is_an_error_and_not_moved_aside(outbox: Outbox, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxError, match="locked"):
        put(outbox, fired())
    with pytest.raises(OutboxError, match="locked"):
        Outbox.open(path)
    other.close()
    put(outbox, fired())
    with pytest.raises(OutboxError, match=r"missing"):
        Outbox.open(path.parent / "missing" / "outbox.db")
    assert not list(path.parent.glob("*.corrupt*"))
