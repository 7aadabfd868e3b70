"""Frames on their way through the registry and the interpreter into sinks, as the pipeline brings them."""

from __future__ import annotations

from typing import Any

from rlhfd_daemon.frame import Frame
from rlhfd_daemon.interpret import Interpreter
from rlhfd_daemon.pipeline import Sink
from rlhfd_daemon.runs import Peer, Runs
from wire import frame

__all__ = ["Feed"]


class Feed:
    """Gives every frame to ``sinks`` after ``runs`` has taken note of it; each stream numbers its frames itself."""

    def __init__(self, runs: Runs, *sinks: Sink) -> None:
        self._runs = runs
        self._sinks = sinks
        self._interpreter = Interpreter()
        self._seqs: dict[str, int] = {}

    def __call__(self, at: float, **changes: Any) -> None:
        """A frame received at ``at`` (Unix seconds). Its stream is that of run, boot, role and rank."""
        parts = (changes.get(key, known) for key, known in (("run", "r"), ("boot", "b"), ("role", "t"), ("rank", 0)))
        stream = "".join(f"{part}/" for part in parts)[:64]
        self._seqs[stream] = seq = self._seqs.get(stream, 0) + 1
        self.give(at, frame(seq, **{"stream": stream, "step": None, **changes}))

    def give(self, at: float, one: Frame) -> None:
        """The frame as it is."""
        self._runs.admit(one, Peer(1000, 42), at)
        samples = self._interpreter.samples(one, round(at * 1e9), 1)
        for sink in self._sinks:
            sink.take(one, samples)
