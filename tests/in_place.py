"""A process whose emitter only keeps what it is given, for tests of signals."""

from __future__ import annotations

from rlhfd_emitter.process import Process


class Recorder:
    """In place of the emitter."""

    def __init__(self) -> None:
        self.muted = False
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.events: list[tuple[str, dict[str, object]]] = []

    def emit(self, step: int | None, metrics: dict[str, float]) -> None:
        self.metrics.append((step, metrics))

    def event(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))


def process_of(role: str) -> Process:
    """A process of ``role`` with a :class:`Recorder`."""
    made = Process()
    made.role, made.emitter = role, Recorder()  # type: ignore[assignment]
    return made


def recorder(process: Process) -> Recorder:
    """The one of :func:`process_of`."""
    assert isinstance(process.emitter, Recorder)
    return process.emitter
