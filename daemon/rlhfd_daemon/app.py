"""The daemon put together: the only file that knows all parts. Builds, starts in order, stops in reverse."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from rlhfd_alerts.errors import OutboxError
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.outbox import Outbox
from rlhfd_daemon.actions.actor import Actions
from rlhfd_daemon.alerting import Alerting, dispatcher_for
from rlhfd_daemon.analyzers import build
from rlhfd_daemon.config import Config, load
from rlhfd_daemon.config_alerts import alert_rules
from rlhfd_daemon.control import ControlServer
from rlhfd_daemon.control_alerts import alert_routes
from rlhfd_daemon.deaths import Deaths
from rlhfd_daemon.delivery import Delivery
from rlhfd_daemon.errors import ConfigError
from rlhfd_daemon.framelog import FrameLog
from rlhfd_daemon.heartbeat import Heartbeat
from rlhfd_daemon.ingest import Answer, Ingest, Received
from rlhfd_daemon.losses import Losses
from rlhfd_daemon.notify import Notifier
from rlhfd_daemon.observation import Observation
from rlhfd_daemon.outlets.all import Outlets
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.pollers import build as build_pollers
from rlhfd_daemon.pollers.checkpoints import CheckpointPoller
from rlhfd_daemon.pollers.gpu import GpuPoller
from rlhfd_daemon.pollers.ray import RayPoller
from rlhfd_daemon.pollers.schedule import Schedule
from rlhfd_daemon.process_names import ProcessNames
from rlhfd_daemon.process_state import states
from rlhfd_daemon.recorder import Recorder
from rlhfd_daemon.recording import tail
from rlhfd_daemon.run_report import RunReport
from rlhfd_daemon.runs import Runs
from rlhfd_daemon.stalls import StallWatch
from rlhfd_daemon.statelock import StateLock
from rlhfd_daemon.status import Parts, status
from rlhfd_daemon.watch import exits
from rlhfd_emitter.endpoint import default_endpoint, ipc_path

HOUSEKEEPING_SECONDS = 1.0
LOOK_SECONDS = 0.1  # at the processes
STOP_SECONDS = 5.0
LAG_SECONDS = 0.5  # timers wait for frames that were received before them: as in a replay
RELOADED = ("targets", "links", "alerts", "actions")
log = structlog.get_logger()


def endpoint_of(config: Config) -> str:
    """Where emitters find the daemon."""
    return config.ingest.endpoint or default_endpoint()


def control_socket_of(config: Config) -> Path:
    """Where the command line finds the daemon."""
    if config.control.socket:
        return Path(config.control.socket)
    return Path(ipc_path(endpoint_of(config)) or "").with_name("control.sock")


class App:
    """One daemon on one state directory. ``config_path`` is read again on SIGHUP."""

    def __init__(self, config: Config, config_path: Path | None, environ: Mapping[str, str]) -> None:
        self.config = config
        self.started_at = time.time()
        self.reload_error: str | None = None
        self.muted: set[str] = set()
        self._config_path = config_path
        self._environ = environ
        self._notifier = Notifier(environ)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        state_dir = Path(config.daemon.state_dir)
        self._lock = StateLock(state_dir)
        self.runs = Runs()
        log_sizes = config.framelog.segment_bytes, config.framelog.max_bytes
        self.framelog = FrameLog(state_dir / "frames", segment_bytes=log_sizes[0], max_bytes=log_sizes[1])
        self.outlets = Outlets(config, self.runs, environ, status=self._status, unhealthy=self._unhealthy)
        lifecycle = Lifecycle(alert_rules(config.alerts))
        self.actions = Actions(config.actions, self.runs, lambda stream: self.ingest.tell(stream))
        names = ProcessNames()
        pollers = build_pollers(config.pollers, self.runs, state_dir, names)
        saves = [one for one in pollers if isinstance(one, CheckpointPoller)]
        self.pipeline = Pipeline(build(config.analyzers), lifecycle, (*self.outlets.sinks, self.actions, *saves))
        self.deaths = Deaths(self.runs)
        self.losses = Losses(self.runs, self.framelog.stats)
        self.stalls = StallWatch(config.phases, self.runs, states)
        gpu = GpuPoller(config.pollers.gpu, self.runs, state_dir, names=names) if config.pollers.gpu.enabled else None
        ray = next((one for one in pollers if isinstance(one, RayPoller)), None)
        self.pollers = Schedule(pollers if gpu is None else (*pollers, gpu), self._note)
        self.delivery = Delivery(environ, state_dir / "targets.json")
        self.heartbeat = Heartbeat(config.heartbeat, environ, self._unwell)
        self.ingest = Ingest(
            endpoint_of(config),
            max_frame_bytes=config.ingest.max_frame_bytes,
            allowed_uids=config.ingest.allowed_uids or (os.geteuid(), 0),
            sink=self._take,
            answer_for=self._answer_for,
            refuse=self.runs.refuse,
            foreign=self.runs.foreign,
        )
        reports = RunReport(
            self.runs,
            self.outlets.latest,
            firing=lambda: self.pipeline.lifecycle.firing,
            steps=self.outlets.steps.path,
            names=names,
            methods=dict if ray is None else ray.methods,
            unobserved=lambda: () if ray is None else ray.unobserved,
            unchecked=self.pipeline.unchecked,
        )
        desk = alert_routes(lambda: self.alerting, self.delivery.enable)
        self.control = ControlServer(
            control_socket_of(config), status=self._status, mute=self.mute, gpu=gpu, reports=reports, more=desk
        )

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. :raises DaemonError: what keeps the daemon from starting."""
        self._install_signals()
        try:
            await self._start()
            await self._stopping.wait()
        finally:
            await self._stop()

    async def _start(self) -> None:
        self._lock.acquire()
        state_dir = Path(self.config.daemon.state_dir)
        self.outbox = Outbox.open(state_dir / "alerts.sqlite3")
        self.framelog.open(minimum_next_id=self.outbox.decided_through() + 1)
        self.pipeline.restore(self.outbox.alerts(), self.outbox.rows())
        dispatcher = dispatcher_for(self.config, self.runs)
        told, actions = self.delivery.notify, self.actions.decisions
        self.alerting = Alerting(self.outbox, self.pipeline.lifecycle, dispatcher, decided=told, actions=actions)
        self.alerting.restore(time.time())
        self.recorder = Recorder(self.framelog, self.runs, self.pipeline, self.alerting)
        caught_up = self.recorder.catch_up(tail(state_dir / "frames", self.config.framelog.warmup_bytes))
        self.recorder.note(self.losses.check(time.time()), time.time_ns())
        await self.delivery.start(self.config, self.outbox)
        self.ingest.start()
        await self.control.start()
        self._tasks = [asyncio.create_task(self._sync_forever()), asyncio.create_task(self._housekeep_forever())]
        self.pollers.start()
        await self.outlets.start()
        self.heartbeat.start()
        log.info("ready", endpoint=self.ingest.endpoint, state_dir=str(state_dir), caught_up_records=caught_up)
        self._notifier.ready(f"listening at {self.ingest.endpoint}")

    async def _stop(self) -> None:
        self._notifier.stopping()
        await self.heartbeat.stop()
        self.ingest.stop()
        await self.pollers.stop()
        await self.outlets.stop()
        await self.control.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.deaths.close()
        self.actions.close()
        await self.delivery.stop(STOP_SECONDS)
        self.framelog.close()
        if hasattr(self, "outbox"):
            if hasattr(self, "recorder"):
                self.recorder.advance()
            self.outbox.close()
        self._lock.release()
        log.info("stopped")

    def _unhealthy(self) -> str | None:
        """Why only a new start would help: that we answer at all shows that the loop turns."""
        ended = [task.get_name() for task in self._tasks if task.done()]
        return f"ended: {', '.join(ended)}" if ended else None

    def _unwell(self) -> str | None:
        """Why somebody should look after this daemon, although its loop turns."""
        return self._unhealthy() or ("records are not written" if self.framelog.stats().degraded else None)

    def _status(self) -> dict[str, object]:
        others = self.outlets.status() | {"heartbeat": self.heartbeat.status(), "actions": self.actions.status()}
        return others | status(
            Parts(
                started_at=self.started_at,
                reload_error=self.reload_error,
                muted=self.muted,
                ingest=self.ingest,
                recorder=self.recorder,
                alerting=self.alerting,
                framelog=self.framelog,
                delivery=self.delivery,
                pipeline=self.pipeline,
                runs=self.runs,
                pollers=self.pollers,
            )
        )

    def mute(self, run: str, muted: bool) -> int:
        """Tell the emitters of every launch of ``run`` to fall silent, or to speak again; how many were told."""
        (self.muted.add if muted else self.muted.discard)(run)
        streams = [stream for stream in self.runs.streams.values() if stream.run == run and stream.ended is None]
        for stream in streams:
            self.ingest.tell(stream.stream)
        log.info("mute", run=run, muted=muted, streams=len(streams))
        return len(streams)

    async def reload(self) -> None:
        """Read the configuration again; a bad one leaves everything as it is. Targets and mute state change at once,
        where the daemon listens and what it analyses with the next start."""
        if self._config_path is None:
            log.warning("reload: started without a configuration file, nothing to read")
            return
        self._notifier.reloading()
        try:
            config = load(self._config_path, self._environ)
            await self.delivery.start(config, self.outbox)
            self.alerting.replace(dispatcher_for(config, self.runs), time.time())
            self.actions.decisions.configure(config.actions)
        except (ConfigError, OutboxError) as error:
            self.reload_error = str(error)
            log.error("reload refused, the old configuration stays", error=str(error))
        else:
            self.reload_error = None
            changed = [name for name in config.__struct_fields__ if getattr(config, name) != getattr(self.config, name)]
            later = [name for name in changed if name not in RELOADED]
            self.config = config
            log.info("reloaded", targets=sorted(config.targets), needs_restart=later)
        self._notifier.ready(f"listening at {self.ingest.endpoint}")

    def _take(self, batch: list[Received]) -> None:
        self.recorder.take(batch)

    def _note(self, seen: Sequence[Observation], now_ns: int) -> None:
        self.recorder.note(seen, now_ns)

    def _answer_for(self, stream_id: str) -> Answer:
        stream = self.runs.streams.get(stream_id)
        run = None if stream is None else stream.run
        last = self.runs.last_seq(stream_id)
        return Answer(stream_id, last, mute=run in self.muted, requests=self.actions.asked_of(stream_id))

    async def _sync_forever(self) -> None:
        """Group commit: acknowledged frames are in the page cache, at most one interval away from the disk."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.config.framelog.sync_interval_seconds)
            await loop.run_in_executor(None, self.framelog.sync)

    async def _housekeep_forever(self) -> None:
        turns = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            turns += 1
            now_ns = time.time_ns()
            try:
                self.recorder.note(self.deaths.check(now_ns / 1e9, time.monotonic()), now_ns)
                if turns % round(HOUSEKEEPING_SECONDS / LOOK_SECONDS) == 0:
                    self._housekeep(now_ns)
                self.recorder.note(self.actions.check(now_ns / 1e9, self.alerting.is_stored), now_ns)
            except Exception:  # a supervised loop: one bad turn must not end the watch over all runs
                log.exception("housekeeping failed")

    def _housekeep(self, now_ns: int) -> None:
        self.recorder.note(exits(self.runs, now_ns / 1e9), now_ns)
        self.recorder.note(self.stalls.check(now_ns / 1e9, time.monotonic()), now_ns)
        self.recorder.note(self.delivery.check(now_ns / 1e9), now_ns)
        self.recorder.note(self.losses.check(now_ns / 1e9), now_ns)
        for stream in self.runs.streams.values():
            if stream.ended is not None:
                self.ingest.forget(stream.stream)
        self.recorder.tick(now_ns / 1e9 - LAG_SECONDS)
        self.recorder.advance()
        self._notifier.watchdog()

    def _install_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn_reload(loop))

    def _spawn_reload(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tasks.append(loop.create_task(self.reload()))

    def _terminate(self) -> None:
        if self._stopping.is_set():
            os._exit(1)  # asked twice: everything that matters is on disk already
        log.info("stopping")
        self._stopping.set()
