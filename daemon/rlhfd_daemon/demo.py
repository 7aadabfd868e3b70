"""`rlhfd demo`: a recorded OpenRLHF run through the real emitter, daemon and webhook, in a private directory."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.text import Text

from rlhfd_alerts.signature import parse_secret, sign
from rlhfd_alerts.testing import ReceivedRequest, WebhookServer
from rlhfd_daemon.config import AnalyzersConfig
from rlhfd_daemon.control import ask
from rlhfd_daemon.errors import ControlError, DemoError
from rlhfd_daemon.frame import Frame, FrameError, decode
from rlhfd_daemon.recording import read
from rlhfd_daemon.replay import replay
from rlhfd_daemon.segment import Damage
from rlhfd_emitter import Emitter

RECORDING = Path(__file__).parent / "recordings" / "ppo_reward_constant.log.xz"
PLAY_SECONDS = 12.0
START_SECONDS = 20.0
SETTLE_SECONDS = 20.0
PROGRESS_STEPS = 10

Say = Callable[[Any], None]


class Demo:
    """One demonstration; ``say`` shows a line or a rich renderable to the person watching."""

    def __init__(self, recording: Path | None, say: Say) -> None:
        self._recording = recording or RECORDING
        self._say = say
        self._sent = 0

    async def run(self) -> int:
        """Play the recording; 0 if every alert arrived signed and the daemon's own recording replays to the same.

        :raises DemoError: what did not come true.
        """
        frames = list(self._frames())
        if not frames:
            raise DemoError(f"{self._recording}: no frames in this recording")
        with tempfile.TemporaryDirectory(prefix="rlhfd-demo-") as directory:
            async with WebhookServer() as server, self._daemon(Path(directory), server) as control:
                shown = asyncio.create_task(self._show_alerts(server))
                began = time.monotonic()
                await self._play(frames, f"ipc://{directory}/rlhfd.sock")
                status = await self._settled(control)
                shown.cancel()
                requests = list(server.requests)
                self._check(Path(directory), requests, status, time.monotonic() - began)
        return 0

    def _frames(self) -> Iterator[Frame]:
        for record in read(self._recording):
            if not isinstance(record, Damage):
                with contextlib.suppress(FrameError):
                    yield decode(record.payload)

    @contextlib.asynccontextmanager
    async def _daemon(self, directory: Path, server: WebhookServer) -> AsyncIterator[Path]:
        """A daemon process of our own; gives its control socket."""
        self._secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
        (directory / "secret").write_text(self._secret)
        (directory / "secret").chmod(0o600)
        config = directory / "rlhfd.toml"
        config.write_text(
            f'[daemon]\nstate_dir = "{directory}/state"\n'
            f'[ingest]\nendpoint = "ipc://{directory}/rlhfd.sock"\n'
            f'[targets.demo]\nurl = "{server.url}"\nsecret_file = "{directory}/secret"\nallow_private = true\n'
        )
        self._say(f"daemon     rlhfd daemon --config {config}")
        self._say(f"receiver   {server.url}")
        log = (directory / "daemon.log").open("wb")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rlhfd_daemon", "daemon", "--config", str(config), stdout=log, stderr=log
        )
        try:
            control = directory / "control.sock"
            await self._answering(process, control, directory / "daemon.log")
            yield control
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()
            log.close()

    async def _answering(self, process: asyncio.subprocess.Process, control: Path, log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.returncode is None:
            with contextlib.suppress(ControlError):
                await asyncio.to_thread(ask, control, "GET", "/api/v1/status")
                return
            await asyncio.sleep(0.1)
        raise DemoError(f"the daemon did not start; its log says:\n{log.read_text()[-2000:]}")

    async def _play(self, frames: list[Frame], endpoint: str) -> None:
        """Emit every frame's content again through one emitter per recorded stream, in recorded order."""
        emitters: dict[str, Emitter] = {}
        pause = PLAY_SECONDS / len(frames)
        last_step = 0
        for frame in frames:
            if frame.role == "rlhfd":
                continue  # what the recording daemon observed itself; ours makes its own observations
            emitter = emitters.get(frame.stream)
            if emitter is None:
                identity = {"run": frame.run, "role": frame.role, "rank": frame.rank, "boot": frame.boot}
                emitter = emitters[frame.stream] = Emitter(**identity, endpoint=endpoint)  # type: ignore[arg-type]
            if frame.kind == "metrics":
                emitter.emit(frame.step, frame.metrics)
            elif frame.event != "process_stop":  # the emitter's own close says it
                emitter.event(str(frame.event), step=frame.step, **frame.fields)
            self._sent += 1
            if frame.kind == "metrics" and frame.step is not None and frame.step >= last_step + PROGRESS_STEPS:
                last_step = frame.step
                self._progress(frame)
            await asyncio.sleep(pause)
        roles = sorted({emitter.role for emitter in emitters.values()})
        self._say(f"played     {self._sent} frames of {len(emitters)} processes: {', '.join(roles)}")
        for emitter in emitters.values():
            await asyncio.to_thread(emitter.close, 5.0)

    def _progress(self, frame: Frame) -> None:
        shown = ("train/reward", "train/rollout/reward_std", "train/kl", "train/entropy_loss")
        values = (f"{name.removeprefix('train/')} {frame.metrics[name]:.3f}" for name in shown if name in frame.metrics)
        self._say(f"step {frame.step!s:>5} {', '.join(values)}")

    async def _show_alerts(self, server: WebhookServer) -> None:
        seen = 0
        while True:
            await server.wait_for(seen + 1, timeout=3600)
            self._say(panel(json.loads(server.requests[seen].body)))
            seen += 1

    async def _settled(self, control: Path) -> dict[str, Any]:
        """The daemon's status once it has taken every frame and nothing waits in its outbox."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            status: dict[str, Any] = await asyncio.to_thread(ask, control, "GET", "/api/v1/status")
            waiting = sum(target.get("pending", 0) for target in status["targets"].values())
            if status["ingest"]["frames_total"] >= self._sent and not waiting:
                return status
            if time.monotonic() > deadline:
                raise DemoError(
                    f"after {SETTLE_SECONDS:.0f} s the daemon has {status['ingest']['frames_total']} of {self._sent} "
                    f"frames and {waiting} notifications wait"
                )
            await asyncio.sleep(0.1)

    def _is_signed(self, request: ReceivedRequest) -> bool:
        identity, timestamp = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
        expected = sign([parse_secret(self._secret)], identity, timestamp, request.body)
        return request.headers["webhook-signature"] == expected

    def _check(self, directory: Path, requests: list[ReceivedRequest], status: dict[str, Any], seconds: float) -> None:
        bodies = [request.body for request in requests]
        forged = [request for request in requests if not self._is_signed(request)]
        again = list(replay(directory / "state" / "frames", AnalyzersConfig()))
        if not bodies:
            raise DemoError("no alert arrived")
        if forged:
            raise DemoError(f"{len(forged)} webhook calls had no valid signature")
        if again != bodies:
            raise DemoError(f"the recording replays to {len(again)} notifications, {len(bodies)} had arrived")
        firing = sum(json.loads(body)["type"] == "alert.firing" for body in bodies)
        total = status["ingest"]["frames_total"]
        self._say(
            f"summary    {total} frames recorded, none lost, in {seconds:.0f} s; {len(bodies)} signed webhook calls "
            f"({firing} firing, {len(bodies) - firing} resolved); the daemon's log replays to the same, byte for byte"
        )


def panel(body: dict[str, Any]) -> Panel:
    """One webhook body for a terminal."""
    data = body["data"]
    episode = data["episode"]
    text = Text(f"{data['summary']}\n")
    for member in (data["alerts"] if episode is None else episode["members"])[:8]:
        since = "" if member["onset_step"] is None else f"since step {member['onset_step']}"
        text.append(f"  {member['metric']:<32} {member['sparkline']:<16}  {since}\n")
    if data["state"] == "firing":
        text.append(f"What to do: {data['remedy']}")
    colour = "green" if data["state"] == "resolved" else "red" if data["severity"] == "critical" else "yellow"
    title = f"{data['state'].upper()} {data['severity']} {data['rule']}, run {data['run']}, step {data['step']}"
    subtitle = "" if episode is None else f"{episode['id']}, confidence {episode['confidence']:.2f}"
    return Panel(text, title=title, title_align="left", subtitle=subtitle, border_style=colour)
