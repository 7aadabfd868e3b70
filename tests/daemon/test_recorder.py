"""Record, then decide, then commit: what a crash at any point leaves is decided exactly once, with the same result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.outbox import Outbox
from rlhfd_daemon.alerting import Alerting
from rlhfd_daemon.analyzers import build
from rlhfd_daemon.config import AnalyzersConfig
from rlhfd_daemon.frame import Link, decode
from rlhfd_daemon.framelog import FrameLog
from rlhfd_daemon.ingest import Received
from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.recorder import Recorder
from rlhfd_daemon.recording import read, tail
from rlhfd_daemon.replay import replay
from rlhfd_daemon.runs import Peer, Runs
from rlhfd_daemon.segment import Record
from wire import frame, packed

PEER = Peer(1000, 42)
NS = 1_700_000_000_000_000_000


class Daemon:
    """The parts round a Recorder on real files; opening a second one on the same folder is a restart."""

    def __init__(self, folder: Path, targets: tuple[str, ...] = ("hook",), segment_bytes: int = 1 << 24) -> None:
        self.frames = folder / "frames"
        self.outbox = Outbox.open(folder / "alerts.sqlite3")
        self.log = FrameLog(self.frames, segment_bytes=segment_bytes)
        self.log.open(minimum_next_id=self.outbox.decided_through() + 1)
        self.runs = Runs()
        self.pipeline = Pipeline(build(AnalyzersConfig()), Lifecycle())
        self.pipeline.restore(self.outbox.alerts(), self.outbox.rows())
        self.told = 0
        self.alerting = Alerting(self.outbox, self.pipeline.lifecycle, Dispatcher(None, targets), decided=self._decided)
        self.alerting.restore(NS / 1e9)
        self.recorder = Recorder(self.log, self.runs, self.pipeline, self.alerting)

    def _decided(self) -> None:
        self.told += 1

    def start(self) -> int:
        return self.recorder.catch_up(tail(self.frames, 1 << 30))

    def crash(self) -> None:
        """Nothing more is written; only the descriptors are given back."""
        self.log.close()
        self.outbox.close()

    def records(self) -> list[Record]:
        return [record for record in read(self.frames) if isinstance(record, Record)]

    def owed(self) -> list[tuple[str, bytes]]:
        return [(row.id, row.body) for row in self.outbox.due("hook", 1e12, 1000)]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    opened = Daemon(tmp_path)
    opened.start()
    yield opened
    opened.crash()


def received(seq: int, value: float = 1.0, link: Link | None = None, **changes: object) -> Received:
    payload = packed(seq, **({} if "kind" in changes else {"metrics": {"loss": value}}), **changes)
    return Received(decode(payload), payload, PEER, NS + seq * 10**9, link)


def test_frames_are_recorded_as_they_came(daemon: Daemon) -> None:
    batch = [received(1), received(2, math.nan, colour="unknown key")]
    daemon.recorder.take(batch)
    assert [(r.id, r.received_ns, r.uid, r.pid, r.payload) for r in daemon.records()] == [
        (index, one.received_ns, 1000, 42, one.payload) for index, one in enumerate(batch, 1)
    ]
    assert (daemon.recorder.counters.accepted, daemon.recorder.last_record) == (2, 2)


def test_duplicates_pings_early_and_foreign_frames_are_not_recorded(daemon: Daemon) -> None:
    ping = packed(0, kind="ping")
    daemon.recorder.take([received(1), received(1), Received(decode(ping), ping, PEER, NS)])
    daemon.recorder.take([received(1), received(3, link=Link(2, 1)), received(2, run="other")])
    assert len(daemon.records()) == 1
    counters = daemon.recorder.counters
    assert (counters.accepted, counters.duplicates, counters.foreign) == (1, 3, 1)


def test_what_is_told_is_in_the_outbox_before_and_in_the_log_before_that(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    daemon = Daemon(tmp_path)
    alerting = Alerting(
        daemon.outbox, daemon.pipeline.lifecycle, Dispatcher(None, ("hook",)),
        decided=lambda: seen.append((len(daemon.records()), len(daemon.owed()))),
    )  # fmt: skip
    recorder = Recorder(daemon.log, daemon.runs, daemon.pipeline, alerting)
    recorder.take([received(1), received(2, math.nan)])
    assert seen == [(2, 1)]
    daemon.crash()


def test_a_restart_decides_exactly_what_nobody_had_decided(tmp_path: Path) -> None:
    before = Daemon(tmp_path)
    before.start()
    before.recorder.take([received(1), received(2, math.nan)])
    owed = before.owed()
    assert len(owed) == 1
    # The crash: three more frames reach the log, but nobody decides on them any more.
    late = [received(3, math.inf), received(4), received(1, math.nan, stream="s2", role="critic")]
    before.log.append([(one.received_ns, 1000, 42, one.payload) for one in late])
    before.crash()

    after = Daemon(tmp_path)
    assert after.start() == 3
    assert after.owed()[:1] == owed, "decided before: the same delivery, not another"
    assert after.told == 0, "there is nothing new to send"
    assert after.outbox.counts() == {("hook", "pending"): 1}, "the second NaN joins the episode that was told"
    assert {alert.finding.labels[0][1] for alert in after.outbox.alerts()} == {"trainer", "critic"}
    assert len({alert.finding.episode for alert in after.outbox.alerts()}) == 1
    assert after.outbox.decided_through() == 5
    after.recorder.take([received(4), received(5)])
    assert [record.id for record in after.records()] == [1, 2, 3, 4, 5, 6]
    after.crash()
    again = Daemon(tmp_path)
    assert again.start() == 1, "only the frame after the last commit"
    assert again.outbox.counts() == {("hook", "pending"): 1}
    again.crash()


def test_deciding_twice_what_a_crash_left_open_owes_the_same_message_once(tmp_path: Path) -> None:
    """A crash between the log's append and the outbox's commit, on two daemons that then see the same log."""
    bodies = []
    for name in ("straight", "crashed"):
        folder = tmp_path / name
        folder.mkdir()
        daemon = Daemon(folder)
        daemon.start()
        frames = [received(seq, math.nan if seq in (10, 30) else 1.0) for seq in range(1, 40)]
        if name == "straight":
            daemon.recorder.take(frames)
        else:
            daemon.recorder.take(frames[:20])
            daemon.log.append([(one.received_ns, 1000, 42, one.payload) for one in frames[20:]])
            daemon.crash()
            daemon = Daemon(folder)
            daemon.start()
        rows = daemon.outbox._db.execute("SELECT id, body FROM outbox ORDER BY seq").fetchall()
        bodies.append(rows)
        assert [body for _, body in rows] == list(replay(daemon.frames, AnalyzersConfig())), "replay tells the same"
        daemon.crash()
    assert len(bodies[0]) == 4
    assert bodies[0] == bodies[1]


def test_analyzers_know_after_a_restart_what_they_knew_before(tmp_path: Path) -> None:
    before = Daemon(tmp_path)
    before.recorder.take([received(1, math.nan), *(received(seq) for seq in range(2, 6))])
    before.recorder.advance()
    assert before.outbox.counts() == {("hook", "pending"): 1}
    before.crash()
    after = Daemon(tmp_path)
    assert after.start() == 0
    assert after.outbox.counts() == {("hook", "pending"): 1}
    after.recorder.take([received(6)])
    assert after.outbox.counts() == {("hook", "pending"): 2}, "the fifth finite value in a row ends the alert"
    after.crash()


def test_a_firing_alert_is_not_told_again_after_a_restart_but_its_end_is(tmp_path: Path) -> None:
    before = Daemon(tmp_path)
    before.recorder.take([received(1, math.nan)])
    before.crash()
    after = Daemon(tmp_path)
    after.start()
    after.recorder.take([received(2, math.nan)])
    assert after.outbox.counts() == {("hook", "pending"): 1}
    after.recorder.take([received(seq) for seq in range(3, 8)])
    assert after.outbox.counts() == {("hook", "pending"): 2}
    after.crash()


def seen(run: str = "r", **changes: Any) -> list[Observation]:
    return [Observation(subject=Subject(run, "b"), **changes)]


def test_the_daemon_s_own_notes_are_recorded_and_read_back(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.recorder.take([received(1)])
    daemon.recorder.note(seen(event="stream_end", fields={"stream": "s1", "reason": "exited_without_bye"}), NS)
    note = decode(daemon.records()[-1].payload)
    assert (note.role, note.event, note.fields["stream"]) == ("rlhfd", "stream_end", "s1")
    daemon.crash()
    after = Daemon(tmp_path)
    after.start()
    assert after.runs.streams["s1"].ended == "exited_without_bye"
    assert not after.runs.runs["r", "b"].live
    after.crash()


def test_what_a_poller_measured_is_a_frame_like_others(daemon: Daemon) -> None:
    daemon.recorder.note([*seen("node:x", metrics={"host/cpu_ratio": 0.5}), *seen(metrics={"m": 1.0}, step=7)], NS)
    host, run = (decode(record.payload) for record in daemon.records())
    assert (host.kind, host.run, host.metrics, host.step) == ("metrics", "node:x", {"host/cpu_ratio": 0.5}, None)
    assert (run.metrics, run.step) == ({"m": 1.0}, 7)
    assert host.stream != run.stream
    assert not daemon.runs.runs["node:x", "b"].is_training
    daemon.recorder.note(seen("node:x", metrics={"host/cpu_ratio": 0.6}), NS)
    assert decode(daemon.records()[-1].payload).seq == 2


def test_a_note_about_a_run_with_the_longest_name_is_still_a_frame(daemon: Daemon) -> None:
    for run in ("ä" * 64, "x" * 128):
        daemon.recorder.note(seen(run, event="stream_end"), NS)
        assert decode(daemon.records()[-1].payload).run == run


START = {"args": {"algo.kl.init_coef": 0.0}, "versions": {"openrlhf": "0.11.2"}, "trainer": "PPOTrainer"}


def test_every_segment_says_again_what_a_run_said_at_its_start(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, segment_bytes=4096)
    daemon.recorder.take([received(1, kind="event", event="run_start", fields=START)])
    daemon.recorder.take([received(2, kind="event", event="process_start", fields={"hostname": "h", "gpus": [1]})])
    for seq in range(3, 60):
        daemon.recorder.take([received(seq)])
    daemon.crash()
    segments = sorted(daemon.frames.glob("*.log"))
    assert len(segments) > 2
    for segment in segments[:-1]:
        segment.unlink()
    after = Daemon(tmp_path)
    after.start()
    run, stream = after.runs.runs["r", "b"], after.runs.streams["s1"]
    assert (dict(run.context), run.trainer) == (START, "PPOTrainer")
    assert (dict(stream.start), stream.role, stream.peer, stream.gaps) == ({"hostname": "h"}, "trainer", PEER, 0)
    after.recorder.take([received(60)])
    assert after.runs.streams["s1"].gaps == 0
    after.crash()


def test_a_restart_in_the_middle_of_a_stream_finds_no_gap(tmp_path: Path) -> None:
    before = Daemon(tmp_path)
    before.log.append([(NS, 1000, 42, packed(5000)), (NS, 1000, 42, packed(5003))])
    before.crash()
    after = Daemon(tmp_path)
    after.start()
    assert (after.runs.streams["s1"].last_seq, after.runs.streams["s1"].gaps) == (5003, 2)
    after.crash()


def test_recorded_frames_nobody_can_read_are_passed_over(tmp_path: Path) -> None:
    before = Daemon(tmp_path)
    before.log.append([(NS, 1000, 42, b"\xc1"), (NS, 1000, 42, packed(1, v=9)), (NS, 1000, 42, packed(1))])
    before.crash()
    after = Daemon(tmp_path)
    assert after.start() == 1
    assert after.recorder.last_record == 3
    assert list(replay(after.frames, AnalyzersConfig())) == []
    after.crash()


def test_without_a_disk_alerts_go_on(tmp_path: Path) -> None:
    (tmp_path / "frames").write_text("a file where the folder should be")
    daemon = Daemon(tmp_path)
    daemon.recorder.take([received(1, math.nan)])
    assert daemon.log.stats().unrecorded_total == 1
    assert len(daemon.owed()) == 1
    daemon.crash()


def test_one_frame_s_findings_of_one_rule_are_one_notification(daemon: Daemon) -> None:
    payload = packed(1, metrics={"a": math.nan, "b": 1.0, "c": math.inf})
    daemon.recorder.take([Received(decode(payload), payload, PEER, NS)])
    assert len(daemon.owed()) == 1
    body = daemon.owed()[0][1]
    assert b'"metric":"a"' in body
    assert b'"metric":"c"' in body
    assert b'"metric":"b"' not in body


def test_the_pipeline_says_what_a_frame_decides_and_warming_up_says_nothing() -> None:
    pipeline = Pipeline(build(AnalyzersConfig()), Lifecycle())
    bad = frame(1, metrics={"loss": math.nan}, step=61)
    pipeline.warm_up(frame(1, stream="x", role="warm", metrics={"loss": math.nan}), NS, 1)
    assert pipeline.lifecycle.firing == ()
    (transition,) = pipeline.observe(bad, NS, 7)
    assert (transition.record_id, transition.time, transition.alert.finding.step) == (7, NS / 1e9, 61)
    assert pipeline.observe(bad, NS + 1, 8) == []
    assert pipeline.observe(frame(3, kind="event", event="e", fields={"a": 1}), NS, 9) == []
