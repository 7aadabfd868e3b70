"""One delivery worker per configured target, started, replaced and stopped together; and what is noticed of them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import structlog

import rlhfd_daemon
from rlhfd_alerts.context import Context, Links
from rlhfd_alerts.delivery import DeliveryWorker
from rlhfd_alerts.errors import AlertsError
from rlhfd_alerts.health import Health
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.receivers import Receiver, Resending, make_receiver
from rlhfd_alerts.resending import resend_forever
from rlhfd_alerts.target import TargetSettings
from rlhfd_alerts.wanted import is_about_delivery, is_wanted
from rlhfd_daemon.config import Config
from rlhfd_daemon.config_targets import LinksConfig, read_target
from rlhfd_daemon.errors import ConfigError
from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.target_state import TargetState, TargetStates

__all__ = ["Delivery", "check_targets", "context_of", "receiver"]

MAX_NOTICES = 100
RECALLED = 2000  # notifications, after a restart
log = structlog.get_logger()


class Delivery:
    """The targets in force. ``start`` again with other targets replaces them; what is queued stays queued.
    ``state_file`` remembers across restarts which are disabled."""

    def __init__(self, environ: Mapping[str, str], state_file: Path) -> None:
        self.workers: dict[str, DeliveryWorker] = {}
        self._environ = environ
        self._state_file = state_file
        self._targets: Mapping[str, TargetSettings] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._resending: list[asyncio.Task[None]] = []
        self._context = Context()
        self._outbox: Outbox | None = None
        self._states: TargetStates | None = None
        self._notices: list[Observation] = []

    async def start(self, config: Config, outbox: Outbox) -> None:
        """Take up the targets of ``config``; a later call, after a reload, enables what was disabled.

        :raises ConfigError: a secret cannot be read or is none; the workers of before go on."""
        context = context_of(config.links)
        receivers = {name: receiver(name, one, context, self._environ) for name, one in config.targets.items()}
        await self._stop_workers(1.0)
        self._outbox, self._context, self._targets = outbox, context, config.targets
        self.workers = {name: self._worker(name, one, outbox) for name, one in receivers.items()}
        self._take_up(is_reload=self._states is not None)
        self._tasks = [asyncio.create_task(worker.run()) for worker in self.workers.values()]
        for name, one in receivers.items():
            if isinstance(one, Resending):
                one.recall(outbox.recent(name, RECALLED), time.time())
                self._resending.append(asyncio.create_task(resend_forever(name, one, self.workers[name])))

    def notify(self) -> None:
        """Something was put into the outbox."""
        for worker in self.workers.values():
            worker.notify()

    def enable(self, names: set[str] | None = None) -> None:
        """Try the targets called ``names`` (all) again, also those that are disabled."""
        for name, worker in self.workers.items():
            if names is None or name in names:
                worker.enable()
        self._remember()

    def check(self, now: float) -> list[Observation]:
        """What is to be recorded of the targets since the last call: that one fails or works again, that it refused a
        notification. ``now`` is unix seconds."""
        seen, self._notices = self._notices, []
        self._remember()
        states = {} if self._states is None else self._states.known
        for name, worker in self.workers.items():
            seconds, known = worker.counters.degraded_seconds(now), states.get(name, TargetState()).degraded
            if seconds is not None and not known:
                seen.append(_degraded(name, worker.counters, seconds))
                self._set_degraded(name, True)
            elif known and worker.counters.answers:
                seen.append(_seen(name, "target_recovered"))
                self._set_degraded(name, False)
        for name in states.keys() - self.workers.keys():
            seen.append(_seen(name, "target_recovered"))  # it is no longer configured
            self._set_degraded(name, False)
        return seen

    async def stop(self, timeout: float) -> None:
        """Let sends under way finish for at most ``timeout`` seconds. Safe to call twice."""
        await self._stop_workers(timeout)
        self._remember()

    def status(self) -> dict[str, dict[str, object]]:
        """Per target: rows in the outbox by state, the last error, since when it fails or is disabled."""
        answer = {name: _status(worker.counters, self._targets[name]) for name, worker in self.workers.items()}
        counts = {} if self._outbox is None else self._outbox.counts()
        for (name, state), count in counts.items():
            answer.setdefault(name, {})[state] = count
        return answer

    def _worker(self, name: str, one: Receiver, outbox: Outbox) -> DeliveryWorker:
        settings = self._targets[name]
        return DeliveryWorker(
            name,
            one,
            outbox,
            interval_seconds=settings.interval_seconds,
            wanted=partial(is_wanted, target=name),
            given_up=partial(self._gave_up, name),
        )

    def _take_up(self, is_reload: bool) -> None:
        """Disable again what was disabled before a restart; a reload gives every target another chance."""
        self._states = self._states or TargetStates(self._state_file)
        for name, state in self._states.known.items():
            if name in self.workers and state.disabled_at is not None and not is_reload:
                self.workers[name].disable(state.error, state.disabled_at)
                log.warning("target is disabled", target=name, error=state.error)
        self._remember()

    def _remember(self) -> None:
        if self._states is None:
            return
        for name, worker in self.workers.items():
            disabled_at = worker.counters.disabled_at
            error = "" if disabled_at is None else worker.counters.last_error or ""
            degraded = self._states.known.get(name, TargetState()).degraded
            self._states.set(name, TargetState(disabled_at=disabled_at, error=error, degraded=degraded))

    def _set_degraded(self, name: str, degraded: bool) -> None:
        if self._states is None:
            return
        if name not in self.workers:
            self._states.set(name, TargetState())
        else:
            state = self._states.known.get(name, TargetState())
            self._states.set(name, TargetState(disabled_at=state.disabled_at, error=state.error, degraded=degraded))

    def _gave_up(self, name: str, body: bytes, error: str) -> None:
        if len(self._notices) < MAX_NOTICES and not is_about_delivery(body):
            self._notices.append(_seen(name, "notification_given_up", error=error))

    async def _stop_workers(self, timeout: float) -> None:
        for task in self._resending:
            task.cancel()
        await asyncio.gather(*(worker.stop(timeout) for worker in self.workers.values()))
        await asyncio.gather(*self._tasks, *self._resending, return_exceptions=True)
        self._tasks, self._resending = [], []
        await self._context.sessions.close()


def _seen(target: str, event: str, **fields: object) -> Observation:
    # A launch of its own for each target: an alert about one must not be taken for a part of another's.
    subject = Subject(f"rlhfd:{socket.gethostname()}"[:128], f"target:{target}")
    return Observation(subject=subject, event=event, fields={"target": target, **fields})


def _degraded(target: str, health: Health, seconds: float) -> Observation:
    error, disabled = health.last_error or "unknown", health.disabled_at is not None
    state = "is disabled" if disabled else f"has been failing for {seconds:.0f} s"
    return _seen(target, "target_degraded", error=error, state=state, seconds=round(seconds, 1), critical=disabled)


def _status(health: Health, settings: TargetSettings) -> dict[str, object]:
    answer: dict[str, object] = {
        "type": settings.__struct_config__.tag,
        "last_error": health.last_error,
        "failing_since": health.failing_since,
        "disabled_at": health.disabled_at,
        "attempts_failed_total": health.failed,
        "skipped_total": health.skipped,
    }
    if getattr(settings, "insecure", False):
        answer["insecure"] = True
    return answer


def context_of(links: LinksConfig) -> Context:
    """What the receivers of this daemon share."""
    shown = Links(dashboard=links.dashboard_url, rules=links.rules_url)
    return Context(version=rlhfd_daemon.__version__, host=socket.gethostname(), links=shown)


def receiver(name: str, settings: TargetSettings, context: Context, environ: Mapping[str, str]) -> Receiver:
    """:raises ConfigError: a secret is missing, unreadable or malformed, or something else makes it unusable."""
    target = read_target(name, settings, environ)
    try:
        return make_receiver(target, context)
    except AlertsError as error:
        raise ConfigError(f"targets.{name}: {error}") from error


def check_targets(config: Config, environ: Mapping[str, str]) -> None:
    """:raises ConfigError: see :func:`receiver`."""
    context = context_of(config.links)
    for name, settings in config.targets.items():
        receiver(name, settings, context, environ)
