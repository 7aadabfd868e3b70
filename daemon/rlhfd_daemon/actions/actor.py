"""Carries actions out, once what they are due for is on disk, and notes what has become of each."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import structlog

from rlhfd_alerts.threads import in_thread
from rlhfd_daemon.actions import requests, sentinel, signals
from rlhfd_daemon.actions.act import Act, ActionError
from rlhfd_daemon.actions.decide import Decisions
from rlhfd_daemon.config_actions import AnyAction, SentinelAction, SignalAction
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.runs import DAEMON_ROLE, Run, Runs
from rlhfd_daemon.sample import Sample

__all__ = ["Actions"]

LATE_SECONDS = 60.0  # after that what was right to do may not be so any more
WRITE_SECONDS = 30.0
NOT_CONFIGURED = "it is no longer configured"
OUTCOMES = ("action_taken", "action_failed", "action_dry_run")
log = structlog.get_logger()


class Actions:
    """In the daemon's loop. ``tell`` sends a stream its present answer.

    An act is stored before anything is done. What is known to be undone after a restart is done then, unless it is too
    late; of a signal that is not known, so it is not sent again. What was recorded once leads to nothing again.
    """

    def __init__(
        self, actions: Iterable[AnyAction], runs: Runs, tell: Callable[[str], None] = lambda _stream: None
    ) -> None:
        self.decisions = Decisions(socket.gethostname())
        self.decisions.configure(actions)
        self.counts: Counter[str] = Counter()  # outcomes by event
        self._runs = runs
        self._tell = tell
        self._answered: list[tuple[str, Mapping[str, object], int | None]] = []
        self._writing: dict[str, tuple[asyncio.Task[None], float]] = {}

    def take(self, frame: Frame, samples: Sequence[Sample]) -> None:
        """A :class:`~rlhfd_daemon.pipeline.Sink`: hears the answers of emitters, and what was noted before a crash."""
        if frame.event == "action_answer" and frame.role != DAEMON_ROLE:
            self._answered.append((str(frame.fields.get("id")), frame.fields, frame.step))
        elif frame.event in OUTCOMES and frame.role == DAEMON_ROLE:
            self._answered.append((str(frame.fields.get("id")), {"state": "over"}, frame.step))

    def check(self, now: float, is_stored: bool) -> list[Observation]:
        """What has become of acts since the last call, which also carries out those that are due. ``is_stored``: all
        that was decided is on disk; until then nothing is begun."""
        found = [one for answer in self._take_answers() for one in self._follow(*answer)]
        for act in [one for one in self.decisions.acts.values() if one.state != "over"]:
            found += self._go_on(act, now) if act.state != "decided" else self._begin(act, now) if is_stored else ()
        return found

    def asked_of(self, stream: str) -> tuple[dict[str, str], ...]:
        """What the emitter of ``stream`` is to be asked for."""
        return requests.asked_of(self.decisions.acts.values(), stream) if self.decisions.acts else ()

    def status(self) -> dict[str, object]:
        """Outcomes since the start, and what is not over."""
        acts = [one for one in self.decisions.acts.values() if one.state != "over"]
        open_ = [{"id": one.id, "name": one.name, "run": one.run, "state": one.state} for one in acts]
        return {**{f"{event}_total": self.counts[event] for event in OUTCOMES}, "open": open_}

    def close(self) -> None:
        """Give up what does not come back. Safe to call twice."""
        for task, _ in self._writing.values():
            task.cancel()
        self._writing.clear()

    def _take_answers(self) -> list[tuple[str, Mapping[str, object], int | None]]:
        answered, self._answered = self._answered, []
        return answered

    def _begin(self, act: Act, now: float) -> Iterator[Observation]:
        if act.id in self._writing:
            yield from self._written(act, now)
        elif act.dry_run:
            yield self._over(act, "action_dry_run", f"{self._plan(act)}; nothing was done")
        elif act.type == "signal" and act.id in self.decisions.found_undone:
            yield self._over(act, "action_failed", "the daemon ended before it was known; it is not done again")
        elif now - act.decided_at > LATE_SECONDS:
            text = f"the daemon came to it only {now - act.decided_at:.0f} s after the alert, which is too late"
            yield self._over(act, "action_failed", text)
        else:
            try:
                yield from self._carry_out(act, now)
            except ActionError as error:
                yield self._over(act, "action_failed", str(error))

    def _carry_out(self, act: Act, now: float) -> Iterator[Observation]:
        action = self.decisions.action(act.name)
        if action is None or action.__struct_config__.tag != act.type:
            raise ActionError(NOT_CONFIGURED)
        if isinstance(action, SentinelAction):
            path, content = sentinel.path_of(action.path, act), sentinel.content_of(act)
            write = in_thread(lambda: sentinel.write(path, content), "rlhfd-sentinel")
            self._writing[act.id] = asyncio.ensure_future(write), now
        elif isinstance(action, SignalAction):
            yield self._over(act, "action_taken", self._signal(act, action))
        else:
            asked = requests.ask(act, self._run(act), now)
            if isinstance(asked, str):
                raise ActionError(asked)
            self.decisions.put(asked)
            self._tell(asked.stream)

    def _signal(self, act: Act, action: SignalAction) -> str:
        streams = signals.streams_of(self._run(act), action.role, action.rank)
        if not streams:
            raise ActionError(f"the run has no process of role {action.role}{_of_rank(action.rank)} now")
        sent, failed = [], []
        for stream in streams:
            try:
                signals.send(stream, signal.Signals[action.signal])
                sent.append(f"{stream.role}{_of_rank(stream.rank)} (pid {stream.peer.pid})")
            except ActionError as error:
                failed.append(str(error))
        if not sent:
            raise ActionError("; ".join(failed))
        return "; ".join([f"{action.signal} is sent to {', '.join(sent)}", *failed])

    def _written(self, act: Act, now: float) -> Iterator[Observation]:
        task, since = self._writing[act.id]
        action = self.decisions.action(act.name)
        path = sentinel.path_of(action.path, act) if isinstance(action, SentinelAction) else "the file"
        if task.done():
            del self._writing[act.id]
            error = task.exception()
            if error is None:
                yield self._over(act, "action_taken", f"{path} is written")
            else:
                yield self._over(act, "action_failed", str(error))
        elif now - since > WRITE_SECONDS:
            del self._writing[act.id]
            task.cancel()
            yield self._over(act, "action_failed", f"{path} cannot be written: no answer in {WRITE_SECONDS:.0f} s")

    def _go_on(self, act: Act, now: float) -> Iterator[Observation]:
        why = requests.silent(act, self._runs.streams.get(act.stream), now)
        if act.state == "asked" and self.decisions.action(act.name) is None:
            why = NOT_CONFIGURED
        if why is not None:
            yield self._over(act, "action_failed", why)

    def _follow(self, id_: str, fields: Mapping[str, object], step: int | None) -> Iterator[Observation]:
        act = self.decisions.acts.get(id_)
        if act is None or act.state == "over":
            return
        if fields.get("state") == "over":
            self.decisions.put(msgspec.structs.replace(act, state="over"))
        elif fields.get("state") == "accepted" and act.state == "asked":
            self.decisions.put(msgspec.structs.replace(act, state="accepted"))
            yield _event(act, "action_requested", act.step, self._who(act))
        elif fields.get("state") in ("done", "failed", "refused"):
            yield self._over(act, *requests.outcome(act, fields, step), step)

    def _over(self, act: Act, event: str, text: str, step: int | None = None) -> Observation:
        self.decisions.put(msgspec.structs.replace(act, state="over"))
        self.counts[event] += 1
        log.warning(event, run=act.run, action=act.name, episode=act.episode, text=text)
        return _event(act, event, act.step if step is None else step, text)

    def _plan(self, act: Act) -> str:
        action = self.decisions.action(act.name)
        if isinstance(action, SentinelAction):
            return f"would have written {sentinel.path_of(action.path, act)}"
        if isinstance(action, SignalAction):
            return f"would have sent {action.signal} to {action.role}{_of_rank(action.rank)}"
        trainer = requests.trainer_of(self._run(act))
        who = "nobody, since no trainer of the run is known" if trainer is None else f"{trainer.role}"
        return f"would have asked {who} for a {act.type}"

    def _who(self, act: Act) -> str:
        stream = self._runs.streams.get(act.stream)
        pid = "" if stream is None else f"{stream.role} (pid {stream.peer.pid})"
        return f"{pid} is asked for a {act.type} and does it at the end of its step"

    def _run(self, act: Act) -> Run | None:
        return self._runs.runs.get((act.run, act.boot))


def _of_rank(rank: int | None) -> str:
    return "" if rank is None else f" rank {rank}"


def _event(act: Act, event: str, step: int | None, text: str) -> Observation:
    fields: dict[str, object] = {"id": act.id, "name": act.name, "type": act.type, "episode": act.episode, "text": text}
    return Observation(subject=Subject(act.run, act.boot), step=step, event=event, fields=fields)
