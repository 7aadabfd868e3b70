"""From frame to transition, without clock, socket or disk: the daemon, its restart and `replay` all go through here."""

from __future__ import annotations

from collections.abc import Sequence

from rlhfd_alerts.alert import Transition
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_daemon.analyzers import Analyzer
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.sample import samples


class Pipeline:
    """Feeds recorded frames, in record order, through the analyzers and the alert lifecycle."""

    def __init__(self, analyzers: Sequence[Analyzer], lifecycle: Lifecycle) -> None:
        self.analyzers = analyzers
        self.lifecycle = lifecycle

    def observe(self, frame: Frame, received_ns: int, record_id: int) -> list[Transition]:
        """What this frame decides; ``received_ns`` is the daemon's time of receipt, from the record."""
        transitions: list[Transition] = []
        for sample in samples(frame, received_ns, record_id):
            for analyzer in self.analyzers:
                for finding in analyzer.observe(sample):
                    transition = self.lifecycle.observe(finding, record_id)
                    if transition is not None:
                        transitions.append(transition)
        return transitions

    def warm_up(self, frame: Frame, received_ns: int, record_id: int) -> None:
        """Feed the analyzers with a frame that was decided on before the restart; what they find is known."""
        for sample in samples(frame, received_ns, record_id):
            for analyzer in self.analyzers:
                for _ in analyzer.observe(sample):
                    pass
