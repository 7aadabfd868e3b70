"""Tells the processes of one role apart that know no rank, such as a run's rollout actors."""

from __future__ import annotations

from itertools import count

import msgspec

from rlhfd_daemon.frame import Frame
from rlhfd_daemon.runs import DAEMON_ROLE, MAX_STREAMS

__all__ = ["Instances"]

Role = tuple[str, str, str]


class Instances:
    """Gives the frames of such a process a rank of their own: the first of a role keeps none, those that live beside
    it are 1, 2 and so on. A number is free again when its process has taken its leave, or when the daemon noted its
    end. What is known follows from the recorded frames alone, so a replay gives the same numbers."""

    def __init__(self) -> None:
        self._roles: dict[Role, dict[str, int]] = {}  # number by stream
        self._streams: dict[str, Role] = {}

    def numbered(self, frame: Frame) -> Frame:
        """``frame``, with a rank if it has none and is not of the first process of its role."""
        if frame.role == DAEMON_ROLE:
            self._follow(frame)
        elif frame.rank is None:
            number = self._number((frame.run, frame.boot, frame.role), frame.stream)
            if frame.event == "process_stop":
                self._free(frame.stream)
            if number:
                return msgspec.structs.replace(frame, rank=number)
        return frame

    def forget(self, run: str, boot: str) -> None:
        """Drop what is known of a run that is over."""
        for stream in [stream for stream, role in self._streams.items() if role[:2] == (run, boot)]:
            self._free(stream)

    def _number(self, role: Role, stream: str) -> int:
        numbers = self._roles.get(role)
        if numbers is not None and stream in numbers:
            return numbers[stream]
        if len(self._streams) >= MAX_STREAMS:
            return 0
        numbers = self._roles.setdefault(role, {})
        taken = set(numbers.values())
        numbers[stream] = next(number for number in count() if number not in taken)
        self._streams[stream] = role
        return numbers[stream]

    def _free(self, stream: str) -> None:
        role = self._streams.pop(stream, None)
        if role is not None:
            del self._roles[role][stream]
            if not self._roles[role]:
                del self._roles[role]

    def _follow(self, frame: Frame) -> None:
        """What the daemon noted: the end of a stream, or at the head of a segment all that live, oldest first."""
        if frame.event == "stream_end":
            self._free(str(frame.fields.get("stream")))
        elif frame.event == "run_context":
            for one in frame.fields.get("streams", ()):
                if one["rank"] is None:
                    self._number((frame.run, frame.boot, one["role"]), one["stream"])
