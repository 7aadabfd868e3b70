"""A recording played through the same analyzers and the same alert lifecycle as the live daemon's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rlhfd_alerts.alert import Transition
from rlhfd_alerts.content import body, canonical_json
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.telling import Outgoing
from rlhfd_daemon.analyzers import build
from rlhfd_daemon.config import AlertsConfig, AnalyzersConfig
from rlhfd_daemon.config_alerts import alert_rules, dispatcher_of
from rlhfd_daemon.errors import FrameLogError
from rlhfd_daemon.frame import FrameError, decode
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.recording import read
from rlhfd_daemon.runs import Peer, Runs
from rlhfd_daemon.segment import Damage, Record

__all__ = ["play", "replay"]


def replay(
    log: Path,
    analyzers: AnalyzersConfig,
    alerts: AlertsConfig | None = None,
    *,
    targets: Sequence[str] = ("replay",),
    speed: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
    damaged: Callable[[Damage], None] = lambda _damage: None,
) -> Iterator[bytes]:
    """The webhook bodies that the recording at ``log`` leads to, in order; one that is for several ``targets``, once.
    Silences and acknowledgements are not in a recording.

    ``speed`` is a multiple of the recorded pace, 0 as fast as possible; it does not change a byte. Damaged
    records (told to ``damaged``) and frames that cannot be decoded are passed over, as the daemon does.

    :raises FrameLogError: there is nothing to read, or not one good record in it.
    """
    alerts = alerts or AlertsConfig()
    dispatcher = dispatcher_of(alerts, targets)
    pipeline = Pipeline(build(analyzers), Lifecycle(alert_rules(alerts)))
    passed: list[Outgoing] = []

    def let_pass(now: float) -> None:
        for transition in pipeline.tick(now):
            passed.extend(dispatcher.observe([transition], transition.time, by_time=True))
        passed.extend(dispatcher.tick(now))

    last = ""
    for now, transitions in play_in_time(log, _paced(read(log), speed, sleep), pipeline, damaged, let_pass):
        told = [*passed, *(dispatcher.observe(transitions, now) if transitions else ())]
        passed.clear()
        for one in told:
            if one.notification.id != last:
                last = one.notification.id
                yield canonical_json(body(one.notification))


def play(
    log: Path, records: Iterable[Record | Damage], pipeline: Pipeline, damaged: Callable[[Damage], None]
) -> Iterator[list[Transition]]:
    """What each of the ``records`` of ``log`` decides. See :func:`replay` for damages and errors."""
    for _, transitions in play_in_time(log, records, pipeline, damaged):
        yield transitions


def play_in_time(
    log: Path,
    records: Iterable[Record | Damage],
    pipeline: Pipeline,
    damaged: Callable[[Damage], None],
    let_pass: Callable[[float], None] = lambda _now: None,
) -> Iterator[tuple[float, list[Transition]]]:
    """As :func:`play`, with the time of each record, up to which time passes before it (``let_pass``)."""
    runs, is_empty = Runs(), True
    for record in records:
        if isinstance(record, Damage):
            damaged(record)
            continue
        is_empty = False
        try:
            frame = decode(record.payload)
        except FrameError:
            continue
        if runs.admit(frame, Peer(record.uid, record.pid), record.received_ns / 1e9):
            let_pass(record.received_ns / 1e9)
            yield record.received_ns / 1e9, pipeline.observe(frame, record.received_ns, record.id)
    if is_empty:
        raise FrameLogError(f"{log}: no recorded frame in it; is it a frame log?")


def _paced(
    records: Iterable[Record | Damage], speed: float, sleep: Callable[[float], None]
) -> Iterator[Record | Damage]:
    before_ns: int | None = None
    for record in records:
        if isinstance(record, Record):
            if speed > 0 and before_ns is not None:
                sleep(max(0, record.received_ns - before_ns) / 1e9 / speed)
            before_ns = record.received_ns
        yield record
