"""What the daemon costs its node: memory and share of a core, with 64 streams of 10 frames/s and pollers at 1 Hz.

Usage: python tests/bench/daemon_load.py [SECONDS] [STREAMS] [FRAMES_PER_SECOND]. Real emitters in four processes send
to one receiver after the other. `recorded`, the main figure: the frames of the shipped recording of a PPO run (mostly
phases, each step's metrics) to a daemon with files of steps and web server. `metrics`: nothing but 24 metrics a frame.
`pyzmq`: the recorded frames to the floor, a bare ROUTER socket read in groups like the daemon's, which looks up stream
and number, acknowledges and keeps nothing. CPU time is the kernel's account of the process by thread (`decisions` is
the main thread, `I/O` ZeroMQ's, `sync` the thread that makes the log durable) and, beside it, of its children.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import msgspec
import psutil
import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlhfd_daemon.config import PollersConfig
from rlhfd_daemon.frame import VERSION, Frame, decode
from rlhfd_daemon.ingest import ACK_SECONDS, GATHER_SECONDS
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
[pollers.disks]
interval_seconds = 1.0
[pollers.gpu]
interval_seconds = 1.0
"""
if "ray" in PollersConfig.__struct_fields__:
    CONFIG += "[pollers.ray]\ninterval_seconds = 1.0\n"


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


def receive(endpoint: str) -> None:
    """Body of the bare receiver: the least that emitters are content with, with the daemon's own libraries."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    decode_head, owed, answered = msgspec.msgpack.Decoder(_Head).decode, dict[str, tuple[bytes, int]](), 0.0
    while socket.poll():
        time.sleep(GATHER_SECONDS)
        with contextlib.suppress(zmq.Again):
            while True:
                route, *_, payload = socket.recv_multipart(zmq.NOBLOCK)
                head = decode_head(payload)
                owed[head.stream] = (route, head.seq)
        if time.monotonic() - answered > ACK_SECONDS:
            answered = time.monotonic()
            for stream, (route, seq) in owed.items():
                answer = {"v": VERSION, "stream": stream, "ack": seq, "mute": False}
                socket.send_multipart([route, msgspec.msgpack.encode(answer)], zmq.NOBLOCK)
            owed.clear()


class _Head(msgspec.Struct):
    stream: str
    seq: int


@contextlib.contextmanager
def receiver(kind: str, folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The process to be measured and its endpoint."""
    if kind != "pyzmq":
        config = f'{CONFIG}[http]\nlisten = "{folder}/http.sock"\n[steps]\nenabled = true\n'
        with running_daemon(folder, config) as daemon:
            assert daemon.process is not None
            yield psutil.Process(daemon.process.pid), daemon.endpoint
        return
    endpoint = f"ipc://{folder}/bare.sock"
    bare = subprocess.Popen([sys.executable, __file__, "--receive", endpoint])
    try:
        yield psutil.Process(bare.pid), endpoint
    finally:
        bare.kill()
        bare.wait()


def measure(kind: str, seconds: float, streams: int, rate: float) -> float:
    """Print one line; returns the share of a core."""
    with (
        tempfile.TemporaryDirectory(prefix="rlhfd-") as folder,
        receiver(kind, Path(folder)) as (watched, endpoint),
    ):
        arguments = (streams // SENDERS, rate, seconds + WARM_UP_SECONDS + 5)
        senders = [
            subprocess.Popen([sys.executable, __file__, "--send", kind, endpoint, str(one), *map(str, arguments)])
            for one in range(SENDERS)
        ]
        time.sleep(WARM_UP_SECONDS)
        before, family, began = thread_seconds(watched), family_seconds(watched), time.monotonic()
        peak = max(memory(watched, seconds))
        took = time.monotonic() - began
        used = {name: (now - before.get(name, 0.0)) / took for name, now in thread_seconds(watched).items()}
        children = (family_seconds(watched) - family) / took
        for one in senders:
            one.wait()
        total = sum(used.values())
        parts = ", ".join(f"{name} {100 * share:.2f}" for name, share in used.items() if share > 5e-5)
        print(
            f"{kind:<9} {100 * total:5.2f} % of a core ({parts}; {1e6 * total / streams / rate:.0f} us a frame)  "
            f"children {100 * children:.2f} %  RSS {peak / 1e6:.1f} MB",
            flush=True,
        )
        return total


def thread_seconds(watched: psutil.Process) -> dict[str, float]:
    """CPU seconds of the process's threads by what they do; to the nanosecond, from the scheduler."""
    seconds: dict[str, float] = {}
    for task in Path(f"/proc/{watched.pid}/task").iterdir():
        is_main, name = task.name == str(watched.pid), (task / "comm").read_text()
        part = "decisions" if is_main else "I/O" if name.startswith("ZMQ") else "sync"
        seconds[part] = seconds.get(part, 0.0) + int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def family_seconds(watched: psutil.Process) -> float:
    """CPU seconds of the process's children, those that have ended and those that live."""
    ended = watched.cpu_times()
    living = sum(sum(one.cpu_times()[:2]) for one in watched.children())
    return float(ended.children_user + ended.children_system + living)


def memory(watched: psutil.Process, seconds: float) -> Iterator[int]:
    for _ in range(max(1, int(seconds))):
        time.sleep(1.0)
        yield watched.memory_info().rss


def main() -> None:
    if sys.argv[1:2] == ["--send"]:
        kind, endpoint, sender, streams, rate, seconds = sys.argv[2:]
        send(kind, endpoint, int(sender), int(streams), float(rate), float(seconds))
        return
    if sys.argv[1:2] == ["--receive"]:
        receive(sys.argv[2])
        return
    given = [float(text) for text in sys.argv[1:]]
    length, count, pace = [*given, *(30.0, 64.0, 10.0)[len(given) :]]
    share = {kind: measure(kind, length, int(count), pace) for kind in ("pyzmq", "recorded", "metrics")}
    print(f"recorded  {share['recorded'] / share['pyzmq']:.1f} times the bare receiver (pyzmq {zmq.__version__})")


if __name__ == "__main__":
    main()
