"""What the daemon costs its node: memory and share of a core, with 64 streams of 10 frames/s and pollers at 1 Hz.

Usage: python tests/bench/daemon_load.py [SECONDS] [STREAMS] [FRAMES_PER_SECOND]. Real emitters in four processes send
the frames of the shipped recording of a PPO run (mostly phases, each step's metrics) and, in a second round, nothing
but frames of 24 metrics. CPU time is the kernel's account of the daemon's process and, beside it, of its children.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlhfd_daemon.frame import Frame, decode
from rlhfd_daemon.recording import read
from rlhfd_daemon.segment import Record
from rlhfd_emitter import Emitter
from support import running_daemon

SENDERS = 4
WARM_UP_SECONDS = 10.0
METRICS = {f"train/metric_{number}": 0.1 * number for number in range(24)}
CONFIG = """
[framelog]
max_bytes = 67108864
[pollers.host]
interval_seconds = 1.0
[pollers.processes]
interval_seconds = 1.0
[pollers.ray]
interval_seconds = 1.0
[pollers.gpu]
interval_seconds = 1.0
"""


def recorded() -> list[list[Frame]]:
    """The frames of the shipped recording by stream."""
    streams: dict[str, list[Frame]] = {}
    for record in read(Path(str(files("rlhfd_daemon") / "recordings" / "ppo_reward_constant.log.xz"))):
        if isinstance(record, Record):
            frame = decode(record.payload)
            streams.setdefault(frame.stream, []).append(frame)
    return [frames for frames in streams.values() if len(frames) > 50]


def send(kind: str, endpoint: str, sender: int, streams: int, rate: float, seconds: float) -> None:
    """Body of a sender process: ``streams`` emitters at ``rate`` frames a second each."""
    sources = recorded()
    emitters = [Emitter(run=f"bench-{sender}", role="bench", rank=rank, endpoint=endpoint) for rank in range(streams)]
    began, turn = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        for rank, emitter in enumerate(emitters):
            frames = sources[(sender + rank) % len(sources)]
            frame = frames[turn % len(frames)]
            if kind == "metrics":
                emitter.emit(turn, {name: value + 1e-3 * (turn % 7) for name, value in METRICS.items()})
            elif frame.kind == "metrics":
                emitter.emit(turn, frame.metrics)
            else:
                emitter.event(str(frame.event), step=turn, **frame.fields)
        turn += 1
        time.sleep(max(0.0, turn / rate - now))
    for emitter in emitters:
        emitter.close()


def measure(kind: str, seconds: float, streams: int, rate: float) -> None:
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as folder, running_daemon(Path(folder), CONFIG) as daemon:
        assert daemon.process is not None
        watched = psutil.Process(daemon.process.pid)
        arguments = (streams // SENDERS, rate, seconds + WARM_UP_SECONDS + 5)
        senders = [
            subprocess.Popen(
                [sys.executable, __file__, "--send", kind, daemon.endpoint, str(one), *map(str, arguments)]
            )
            for one in range(SENDERS)
        ]
        time.sleep(WARM_UP_SECONDS)
        before, frames_before, began = watched.cpu_times(), daemon.status()["ingest"]["frames_total"], time.monotonic()
        peak = max(memory(watched, seconds))
        took, after, frames = time.monotonic() - began, watched.cpu_times(), daemon.status()["ingest"]["frames_total"]
        for one in senders:
            one.wait()
        used = (after.user + after.system - before.user - before.system) / took
        children = (after.children_user + after.children_system - before.children_user - before.children_system) / took
        living = sum(sum(child.cpu_times()[:2]) / (time.time() - child.create_time()) for child in watched.children())
        rate_seen = (frames - frames_before) / took
        print(
            f"{kind:<9} {rate_seen:6.0f} frames/s  daemon {100 * used:5.2f} % of a core "
            f"({1e6 * used / max(rate_seen, 1):.0f} us a frame)  children {100 * (children + living):.2f} %  "
            f"RSS {peak / 1e6:.1f} MB"
        )


def memory(watched: psutil.Process, seconds: float) -> Iterator[int]:
    for _ in range(max(1, int(seconds))):
        time.sleep(1.0)
        yield watched.memory_info().rss


def main() -> None:
    if sys.argv[1:2] == ["--send"]:
        kind, endpoint, sender, streams, rate, seconds = sys.argv[2:]
        send(kind, endpoint, int(sender), int(streams), float(rate), float(seconds))
        return
    given = [float(text) for text in sys.argv[1:]]
    length, count, pace = [*given, *(30.0, 64.0, 10.0)[len(given) :]]
    for mix in ("recorded", "metrics"):
        measure(mix, length, int(count), pace)


if __name__ == "__main__":
    main()
