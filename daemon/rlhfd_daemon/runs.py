"""Which runs there are, which streams they consist of, and what became of each stream's sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhfd_daemon.frame import Frame, Link

MAX_STREAMS = 20_000
MAX_DROP_REASONS = 32
# The daemon's own observations of a run, read back from the log after a restart.
DAEMON_ROLE = "rlhfd"


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of the socket, by the kernel's word; -1 is unknown."""

    uid: int = -1
    pid: int = -1


@dataclass
class Stream:
    """One emitter of one process. ``gaps`` are sequence numbers that never came; ``drops`` is the emitter's own
    account of what it left out."""

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
    phase: str | None = None
    phase_since: float = 0.0
    ended: str | None = None


@dataclass
class Run:
    """One launch of a run."""

    run: str
    boot: str
    first_seen: float
    last_seen: float
    step: int | None = None
    trainer: str | None = None
    streams: dict[str, Stream] = field(default_factory=dict)

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
        same_user = known.peer.uid in (-1, peer.uid) or peer.uid == -1
        return not same_user or (known.run, known.boot, known.role) != (frame.run, frame.boot, frame.role)

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
        if frame.event == "phase_begin":
            stream.phase, stream.phase_since = str(frame.fields.get("phase")), now
        elif frame.event == "phase_end":
            stream.phase = None
        elif frame.event == "process_stop":
            stream.ended = "process_stop"
        elif frame.event == "run_start":
            run.trainer = str(frame.fields.get("trainer"))
        elif frame.event == "stream_end" and frame.role == DAEMON_ROLE:
            self.end(str(frame.fields.get("stream")), str(frame.fields.get("reason")))
