"""Which runs there are, which streams they consist of, and what became of each stream's sequence."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlhfd_daemon.frame import Frame, Link
from rlhfd_daemon.stream_hooks import follow_hooks, summary_of

MAX_STREAMS = 20_000
MAX_DROP_REASONS = 32
MAX_OPEN_PHASES = 64
MAX_PHASE_KINDS = 256
DURATIONS = 64  # the newest of each role's phase
# The daemon's own observations of a run, read back from the log after a restart.
DAEMON_ROLE = "rlhfd"


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of the socket, by the kernel's word; -1 is unknown."""

    uid: int = -1
    pid: int = -1


class OpenPhase(NamedTuple):
    """A phase that began and has not ended: ``since`` in Unix seconds by the daemon's clock, ``since_mono_ns`` by the
    emitter's monotonic clock, which is the node's."""

    phase: str
    id: int
    step: int | None
    since: float
    since_mono_ns: int


@dataclass
class Stream:
    """One emitter of one process. ``gaps`` are sequence numbers that never came; ``drops`` is the emitter's own
    account of what it left out. ``start`` is what it said at its start: host, world_size, cuda_visible_devices.
    ``phases`` are open, by id; ``stalled`` those of them that were reported; ``hooks`` those that see nothing or went
    wrong, with what is wrong in words."""

    run: str
    boot: str
    role: str
    rank: int | None
    stream: str
    pid: int
    peer: Peer
    last_seq: int = 0
    frames: int = 0
    duplicates: int = 0
    early: int = 0
    gaps: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    step: int | None = None
    last_seen: float = 0.0
    ended: str | None = None
    start: Mapping[str, object] = field(default_factory=dict)
    phases: dict[int, OpenPhase] = field(default_factory=dict)
    stalled: set[int] = field(default_factory=set)
    silent: bool = False
    hooks: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, object]:
        """What :meth:`restored` needs; part of ``run_context``."""
        names = ("role", "rank", "stream", "pid", "last_seq", "last_seen", "step")
        kept = {name: getattr(self, name) for name in names}
        start = {name: value for name, value in self.start.items() if not isinstance(value, (dict, list))}
        hooks = {"hooks": summary_of(self.hooks)} if self.hooks else {}
        drops = {"drops": dict(self.drops)} if self.drops else {}
        return {**kept, "uid": self.peer.uid, "peer_pid": self.peer.pid, "start": start, **hooks, **drops}

    @classmethod
    def restored(cls, run: Run, summary: Mapping[str, Any]) -> Stream:
        """The stream that a daemon before this one knew."""
        peer = Peer(summary["uid"], summary["peer_pid"])
        stream = cls(run.run, run.boot, summary["role"], summary["rank"], summary["stream"], summary["pid"], peer)
        stream.last_seq, stream.last_seen, stream.step = summary["last_seq"], summary["last_seen"], summary["step"]
        stream.start, stream.hooks = summary["start"], summary.get("hooks", {})
        stream.drops = dict(summary.get("drops", {}))
        return stream

    @property
    def phase(self) -> str | None:
        """The phase that was opened last."""
        return next((phase.phase for phase in reversed(self.phases.values())), None)


@dataclass
class Run:
    """One launch of a run, or the node (see ``observation.node``), of which only the daemon speaks.

    ``context`` is what the trainer said at its start: args, versions, trainer. ``durations`` are those of the newest
    phases in seconds, by role and phase.
    """

    run: str
    boot: str
    first_seen: float
    last_seen: float
    step: int | None = None
    context: Mapping[str, object] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    durations: dict[tuple[str, str], deque[float]] = field(default_factory=dict)

    @property
    def trainer(self) -> str | None:
        """The class that trains, if it has introduced itself."""
        trainer = self.context.get("trainer")
        return trainer if isinstance(trainer, str) else None

    @property
    def is_training(self) -> bool:
        """False for the node and for whatever only the daemon has spoken of."""
        return any(stream.role != DAEMON_ROLE for stream in self.streams.values())

    @property
    def live(self) -> bool:
        return any(stream.ended is None and stream.role != DAEMON_ROLE for stream in self.streams.values())


class Runs:
    """The registry. ``admit`` decides by sequence number what is new; everything else follows from frames."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], Run] = {}
        self.streams: dict[str, Stream] = {}

    def last_seq(self, stream: str) -> int:
        """The highest sequence number taken from ``stream``; 0 if it is unknown."""
        known = self.streams.get(stream)
        return 0 if known is None else known.last_seq

    def foreign(self, frame: Frame, peer: Peer) -> bool:
        """True if ``frame`` claims a stream that belongs to another user, run or role, or to the daemon itself."""
        if frame.role == DAEMON_ROLE:
            return True
        known = self.streams.get(frame.stream)
        if known is None:
            return False
        owner = known.peer.uid
        same_user = owner == peer.uid or owner == -1 or peer.uid == -1
        same_place = known.run == frame.run and known.boot == frame.boot and known.role == frame.role
        return not (same_user and same_place)

    def admit(self, frame: Frame, peer: Peer, now: float, link: Link | None = None) -> bool:
        """Take note of ``frame``, received at ``now`` (Unix seconds). False if it is not to be taken: a ping, seen
        before, or ahead of a frame that was lost on the way and will be sent again together with this one."""
        stream = self.streams.get(frame.stream)
        if stream is None and frame.kind != "ping":
            stream = self._new_stream(frame, peer, now)
        if stream is None:
            return False
        stream.last_seen = now
        for reason, total in frame.drops.items():
            if reason in stream.drops or len(stream.drops) < MAX_DROP_REASONS:
                stream.drops[reason] = max(total, stream.drops.get(reason, 0))
        if frame.kind == "ping":
            return False
        if frame.seq <= stream.last_seq:
            stream.duplicates += 1
            return False
        if link is not None and link.previous > max(stream.last_seq, link.acknowledged):
            stream.early += 1
            return False
        if link is not None and stream.frames == 0:  # what another daemon, or our forgotten log, has taken
            stream.last_seq = max(stream.last_seq, min(link.acknowledged, frame.seq - 1))
        stream.gaps += frame.seq - stream.last_seq - 1
        stream.last_seq = frame.seq
        stream.frames += 1
        self._follow(stream, frame, now)
        return True

    def refuse(self, stream_id: str, seq: int, link: Link | None) -> int:
        """Pass over a frame that cannot be taken; returns the sequence number to acknowledge."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return seq
        if link is None or link.previous <= max(stream.last_seq, link.acknowledged):
            stream.last_seq = max(stream.last_seq, seq)
        return stream.last_seq

    def end(self, stream_id: str, reason: str) -> None:
        """The stream's process is gone."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.ended is None:
            stream.ended = reason

    def _new_stream(self, frame: Frame, peer: Peer, now: float) -> Stream | None:
        if len(self.streams) >= MAX_STREAMS and not self._evict():
            return None
        stream = Stream(frame.run, frame.boot, frame.role, frame.rank, frame.stream, frame.pid, peer)
        run = self.runs.setdefault((frame.run, frame.boot), Run(frame.run, frame.boot, now, now))
        run.streams[stream.stream] = self.streams[stream.stream] = stream
        return stream

    def _evict(self) -> bool:
        """Make room by forgetting the oldest run that is over."""
        over = [run for run in self.runs.values() if not run.live]
        if not over:
            return False
        oldest = min(over, key=lambda run: run.last_seen)
        for stream_id in oldest.streams:
            del self.streams[stream_id]
        del self.runs[(oldest.run, oldest.boot)]
        return True

    def _follow(self, stream: Stream, frame: Frame, now: float) -> None:
        run = self.runs[(stream.run, stream.boot)]
        run.last_seen = now
        stream.ended = None
        if frame.step is not None:
            stream.step = frame.step
            run.step = frame.step if run.step is None else max(run.step, frame.step)
        if frame.event is not None:
            self._follow_event(run, stream, frame, now)

    def _follow_event(self, run: Run, stream: Stream, frame: Frame, now: float) -> None:
        event, fields = frame.event, frame.fields
        if event == "phase_begin":
            phase = OpenPhase(str(fields.get("phase")), _number(fields, "id"), frame.step, now, frame.mono_ns)
            if len(stream.phases) < MAX_OPEN_PHASES:
                stream.phases[phase.id] = phase
        elif event == "phase_end":
            stream.phases.pop(_number(fields, "id"), None)
            _remember_duration(run, stream.role, fields)
        elif event == "process_start":
            stream.start = fields
        elif event == "process_stop":
            stream.ended = "process_stop"
        elif event == "run_start":
            run.context = fields
        elif event in ("attached", "hook_failed"):
            stream.hooks = follow_hooks(stream.hooks, event, fields)
        elif frame.role == DAEMON_ROLE:
            self._follow_daemon(run, event, fields)

    def _follow_daemon(self, run: Run, event: str | None, fields: Mapping[str, object]) -> None:
        """What the daemon noted itself; matters when it comes back from the log after a restart."""
        stream = self.streams.get(str(fields.get("stream")))
        if event == "run_context":
            self._restore(run, fields)
        elif stream is None:
            return
        elif event == "stream_end":
            self.end(stream.stream, str(fields.get("reason")))
        elif event == "phase_stalled":
            stream.stalled.add(_number(fields, "id"))
        elif event == "phase_resumed":
            stream.stalled.discard(_number(fields, "id"))
        elif event in ("heartbeat_lost", "heartbeat_back"):
            stream.silent = event == "heartbeat_lost"

    def _restore(self, run: Run, fields: Mapping[str, object]) -> None:
        """Take up what ``run_context`` repeats at the head of a segment: the run's metadata and its streams."""
        context, streams = fields.get("context"), fields.get("streams")
        if isinstance(context, dict) and not run.context:
            run.context = context
        for one in streams if isinstance(streams, list) else []:
            stream = Stream.restored(run, one)
            known = self.streams.get(stream.stream)
            if known is not None:
                known.start, known.hooks = known.start or stream.start, known.hooks or stream.hooks
            elif len(self.streams) < MAX_STREAMS:
                run.streams[stream.stream] = self.streams[stream.stream] = stream


def _number(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) else -1


def _remember_duration(run: Run, role: str, fields: Mapping[str, object]) -> None:
    seconds, key = fields.get("seconds"), (role, str(fields.get("phase")))
    if isinstance(seconds, (int, float)) and (key in run.durations or len(run.durations) < MAX_PHASE_KINDS):
        run.durations.setdefault(key, deque(maxlen=DURATIONS)).append(float(seconds))
