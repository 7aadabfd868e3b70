"""From frame to samples in the units of the metric table, with those that follow from several frames together."""

from __future__ import annotations

from collections.abc import Mapping

from rlhfd_daemon.derive import Derivation, Derived, ratios
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.metrics.normalise import RunContext, normalise
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Sample

__all__ = ["Interpreter", "context_of"]

MAX_RUNS = 4096
UNKNOWN = RunContext()


class Interpreter:
    """Knows each run's arguments and versions from its ``run_start``, or from ``run_context`` after a restart."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[str, str], RunContext] = {}
        self._derivation = Derivation()

    def samples(self, frame: Frame, received_ns: int, record_id: int) -> list[Sample]:
        """The samples of ``frame``, in its order, then the derived ones. A value that says nothing is left out."""
        if frame.event is not None:
            self._follow(frame)
            found = self._derivation.observe(frame)
        else:
            found = [*self._measured(frame), *ratios(frame), *self._derivation.compare(frame)]
        time = received_ns / 1e9
        return [Sample(frame.run, frame.boot, *one, time, record_id) for one in found]

    def _measured(self, frame: Frame) -> list[Derived]:
        context = self._contexts.get((frame.run, frame.boot), UNKNOWN)
        role, rank, step = frame.role, frame.rank, frame.step
        values = ((name, normalise(name, value, context)) for name, value in frame.metrics.items())
        return [Derived(role, rank, step, name, value) for name, value in values if value is not None]

    def _follow(self, frame: Frame) -> None:
        fields = frame.fields
        if frame.event == "run_context" and frame.role == DAEMON_ROLE:
            fields = fields.get("context", {})
        elif frame.event != "run_start":
            return
        key = (frame.run, frame.boot)
        if isinstance(fields, dict) and fields and (key in self._contexts or len(self._contexts) < MAX_RUNS):
            self._contexts[key] = context_of(fields)

    def forget(self, run: str, boot: str) -> None:
        """Drop what is known of a run that is over."""
        self._contexts.pop((run, boot), None)
        self._derivation.forget(run, boot)


def context_of(fields: Mapping[str, object]) -> RunContext:
    """What explains a run's numbers, from the fields of its ``run_start``."""
    args, versions, trainer = (fields.get(name) for name in ("args", "versions", "trainer"))
    version = versions.get("openrlhf") if isinstance(versions, dict) else None
    return RunContext(
        version=version if isinstance(version, str) else None,
        args=args if isinstance(args, dict) else {},
        trainer=trainer if isinstance(trainer, str) else None,
    )
