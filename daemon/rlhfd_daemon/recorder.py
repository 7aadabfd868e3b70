"""The order of things for one batch of frames: record, then decide, then commit; and how a restart catches up."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from rlhfd_daemon.alerting import Alerting
from rlhfd_daemon.frame import VERSION, Frame, FrameError, Link, decode, encode
from rlhfd_daemon.framelog import FrameLog
from rlhfd_daemon.ingest import Received
from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.runcontext import run_context
from rlhfd_daemon.runs import DAEMON_ROLE, Peer, Runs
from rlhfd_daemon.segment import Damage, Record

log = structlog.get_logger()


@dataclass
class Counters:
    """What went through since the start."""

    accepted: int = 0
    duplicates: int = 0
    foreign: int = 0


class Recorder:
    """Takes frames in, in the loop's thread.

    The frame log is written before anything is decided, and what was decided is committed together with the id
    of its record: after a crash the records behind that id are decided on again, with the same result.
    """

    def __init__(
        self,
        framelog: FrameLog,
        runs: Runs,
        pipeline: Pipeline,
        alerting: Alerting,
    ) -> None:
        self.counters = Counters()
        self.last_record = alerting.outbox.decided_through()
        self._framelog = framelog
        self._runs = runs
        self._pipeline = pipeline
        self._alerting = alerting
        self._segment = framelog.segment
        self._own_seqs: dict[Subject, int] = {}
        self._own_stream = f"rlhfd-{time.time_ns():x}"

    def take(self, batch: list[Received]) -> None:
        """Record and decide on the new frames of ``batch``; those seen before are only counted."""
        fresh = [received for received in batch if self._is_fresh(received)]
        if fresh:
            self._record(fresh)

    def note(self, seen: Iterable[Observation], now_ns: int) -> None:
        """Record what the daemon itself observed, so that a replay knows it too."""
        frames = [self._own_frame(observation, now_ns) for observation in seen]
        batch = [Received(frame, encode(frame), Peer(), now_ns) for frame in frames]
        if batch:
            for one in batch:
                self._runs.admit(one.frame, one.peer, now_ns / 1e9)
            self._record(batch)

    def _own_frame(self, seen: Observation, now_ns: int) -> Frame:
        subject = seen.subject
        self._own_seqs[subject] = seq = self._own_seqs.get(subject, 0) + 1
        digest = hashlib.blake2b(f"{subject.run}\0{subject.boot}".encode(), digest_size=8).hexdigest()
        return Frame(
            v=VERSION,
            run=subject.run,
            boot=subject.boot,
            role=DAEMON_ROLE,
            stream=f"{self._own_stream}-{digest}",
            pid=0,
            seq=seq,
            time_ns=now_ns,
            mono_ns=time.monotonic_ns(),
            kind="metrics" if seen.event is None else "event",
            step=seen.step,
            metrics=seen.metrics,
            event=seen.event,
            fields=seen.fields,
        )

    def advance(self) -> None:
        """Store how far decisions have come; called now and then, so that a restart has little to decide again."""
        self._alerting.advance(self.last_record, time.time())

    def tick(self, now: float) -> None:
        """Decide on what follows from the time alone, up to ``now``: unix seconds, not after frames yet to come."""
        self._let_pass(now)
        self._alerting.tick(now, self.last_record)

    def catch_up(self, records: Iterable[Record | Damage]) -> int:
        """After a start: rebuild state from the log's newest ``records`` and decide on those nobody decided on.
        Returns how many those were."""
        decided_through, caught_up = self._alerting.outbox.decided_through(), 0
        for record in records:
            if isinstance(record, Damage):
                continue
            try:
                frame = decode(record.payload)
            except FrameError as error:
                log.warning("recorded frame not readable", record=record.id, reason=error.reason)
                continue
            before = Link(frame.seq - 1, frame.seq - 1)  # what came before this part of the log is no gap
            self._runs.admit(frame, Peer(record.uid, record.pid), record.received_ns / 1e9, before)
            if record.id <= decided_through:
                self._pipeline.warm_up(frame, record.received_ns, record.id)
            else:
                self._decide(frame, record.received_ns, record.id)
                caught_up += 1
            self.last_record = max(self.last_record, record.id)
        self.advance()
        return caught_up

    def _is_fresh(self, received: Received) -> bool:
        if self._runs.foreign(received.frame, received.peer):  # of two in one batch, the second
            self.counters.foreign += 1
            return False
        if self._runs.admit(received.frame, received.peer, received.received_ns / 1e9, received.link):
            return True
        self.counters.duplicates += received.frame.kind != "ping"
        return False

    def _record(self, fresh: list[Received]) -> None:
        ids = self._framelog.append([(one.received_ns, one.peer.uid, one.peer.pid, one.payload) for one in fresh])
        self.counters.accepted += len(fresh)
        for one, record_id in zip(fresh, ids, strict=True):
            self._decide(one.frame, one.received_ns, record_id)
            self.last_record = max(self.last_record, record_id)

        if self._framelog.segment != self._segment:
            self._segment = self._framelog.segment
            self.note([one for run in self._runs.runs.values() for one in run_context(run)], fresh[-1].received_ns)

    def _decide(self, frame: Frame, received_ns: int, record_id: int) -> None:
        self._let_pass(received_ns / 1e9)
        transitions = self._pipeline.observe(frame, received_ns, record_id)
        if transitions:
            self._alerting.take(transitions, record_id, received_ns / 1e9)

    def _let_pass(self, now: float) -> None:
        for transition in self._pipeline.tick(now):
            self._alerting.take([transition], self.last_record, transition.time, by_time=True)
