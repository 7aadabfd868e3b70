"""What recording one step of 24 scalars costs the training thread: emit() beside its peers, each in its own process.

Usage: python tests/bench/emit_cost.py [STEPS]. Prints median and 99th percentile of the call in microseconds and the
median as a multiple of the bare cost (msgpack + zmq.send in the caller's thread), once with 0.2 ms of Python between
the calls, as in a training loop, and once back to back. Contenders run in turn, several rounds, so that other load
on the machine meets all of them; the best round of each counts. Last, the share of a core that the sender thread uses
at 10 frames a second, beside a thread that only sleeps and sends as often.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = """
policy_loss actor_lr ppo_kl ppo_clip_ratio vllm_kl kl reward return response_length total_length values critic_loss
group_reward_std truncated entropy_loss actor_grad_norm critic_lr critic_grad_norm logprobs_diff
timing/make_experience timing/ppo_train timing/broadcast timing/generation timing/step_total
"""
KEYS = NAMES.split()
CONTENDERS = (
    "bare", "rlhfd_up", "rlhfd_stopped", "rlhfd_absent", "prometheus_client", "json_line", "tensorboard",
)  # fmt: skip
ROUNDS = 3
SENDER_SECONDS = 30
PACES_NS = {"0.2 ms of Python between calls": 200_000, "back to back": 0}

Record = Callable[[int], object]


def step(i: int) -> dict[str, float]:
    return {f"train/{key}": 0.1 * j + 1e-4 * i for j, key in enumerate(KEYS)}


def bare() -> Record:
    """What cannot be avoided: pack the frame, give it to a connected socket."""
    import msgpack
    import zmq

    context = zmq.Context()
    endpoint = f"ipc://{tempfile.mkdtemp()}/s"
    program = f"import zmq\ns = zmq.Context().socket(zmq.PULL)\ns.bind({endpoint!r})\nwhile True: s.recv()"
    sink = subprocess.Popen([sys.executable, "-c", program])
    push = context.socket(zmq.PUSH)
    push.set_hwm(100_000)
    push.setsockopt(zmq.LINGER, 0)
    push.connect(endpoint)
    _sinks.append(sink)
    time.sleep(1.0)

    def record(i: int) -> None:
        frame = {"v": 1, "run": "r", "boot": "b", "role": "PPOTrainer", "rank": 0, "stream": "0123456789abcdef",
                 "pid": 1, "seq": i, "time_ns": time.time_ns(), "mono_ns": time.monotonic_ns(), "kind": "metrics",
                 "step": i, "metrics": step(i)}  # fmt: skip
        push.send(msgpack.packb(frame), zmq.NOBLOCK)

    return record


_sinks: list[subprocess.Popen[bytes]] = []


def rlhfd(state: str) -> Record:
    from rlhfd_emitter import Emitter

    directory = tempfile.mkdtemp()
    endpoint = f"ipc://{directory}/s"
    if state != "absent":
        config = Path(directory, "c.toml")
        config.write_text(f'[daemon]\nstate_dir = "{directory}/state"\n[ingest]\nendpoint = "{endpoint}"\n')
        command = [sys.executable, "-m", "rlhfd_daemon", "daemon", "--config", str(config)]
        _sinks.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    emitter = Emitter("r", "PPOTrainer", 0, boot="b", endpoint=endpoint)
    if state != "absent":
        emitter.emit(0, step(0))
        while len(emitter._ring):
            time.sleep(0.05)
    if state == "stopped":
        _sinks[-1].send_signal(signal.SIGSTOP)
    return lambda i: emitter.emit(i, step(i))


def prometheus() -> Record:
    from prometheus_client import Gauge

    gauges = {f"train/{key}": Gauge(key.replace("/", "_"), key) for key in KEYS}

    def record(i: int) -> None:
        for key, value in step(i).items():
            gauges[key].set(value)

    return record


def json_line() -> Record:
    file = Path(tempfile.mkdtemp(), "x.jsonl").open("a", buffering=1)  # noqa: SIM115 - open as long as the process
    return lambda i: file.write(json.dumps({"step": i, **step(i)}) + "\n")


def tensorboard() -> Record:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(tempfile.mkdtemp())
    return lambda i: [writer.add_scalar(key, value, i) for key, value in step(i).items()]


def measure(name: str, steps: int, pace_ns: int) -> None:
    makers: dict[str, Callable[[], Record]] = {
        "bare": bare, "prometheus_client": prometheus, "json_line": json_line, "tensorboard": tensorboard,
    }  # fmt: skip
    record = rlhfd(name.removeprefix("rlhfd_")) if name.startswith("rlhfd_") else makers[name]()
    for i in range(200):
        record(i)
    latencies = []
    for i in range(steps):
        began = time.perf_counter_ns()
        record(i)
        latencies.append(time.perf_counter_ns() - began)
        while time.perf_counter_ns() - began < pace_ns:
            pass  # the rest of the training step: Python code that holds the interpreter lock
    latencies.sort()
    p50, p99 = latencies[steps // 2] / 1e3, latencies[steps * 99 // 100] / 1e3
    print(json.dumps({"p50": p50, "p99": p99}), flush=True)
    for sink in _sinks:
        sink.kill()
    os._exit(0)


def sender_share() -> None:
    """Print the sender thread's share of a core and that of a thread that makes the same system calls."""
    import zmq

    from rlhfd_emitter import Emitter

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support import running_daemon

    with tempfile.TemporaryDirectory(prefix="rlhfd-") as folder, running_daemon(Path(folder)) as daemon:
        emitter, over = Emitter("r", "PPOTrainer", 0, endpoint=daemon.endpoint), threading.Event()
        emitter.emit(0, step(0))
        context: zmq.Context[Any] = zmq.Context()
        sink, bare = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        sink.bind(f"ipc://{folder}/bare")
        bare.connect(f"ipc://{folder}/bare")

        def sleep_and_send() -> None:
            while not over.is_set():
                for _ in range(2):
                    time.sleep(0.05)
                bare.send_multipart([b"link", bytes(600)])

        least = threading.Thread(target=sleep_and_send)
        least.start()
        threads = {"sender thread": emitter._sender._thread, "sleep and send": least}
        time.sleep(1.0)
        used, began = {name: -cpu_seconds(thread) for name, thread in threads.items()}, time.monotonic()
        for i in range(10 * SENDER_SECONDS):
            emitter.emit(i, step(i))
            time.sleep(0.1)
        took = time.monotonic() - began
        print(f"\n{'10 frames a second':32s}{'% of a core':>12s}")
        for name, thread in threads.items():
            print(f"{name:32s}{100 * (used[name] + cpu_seconds(thread)) / took:12.2f}")
        over.set()
        least.join()
        emitter.close()
        context.destroy(0)


def cpu_seconds(thread: threading.Thread) -> float:
    return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) / 1e9


def main(steps: int) -> None:
    print(f"recording 24 scalars, {steps} steps, best of {ROUNDS} rounds, microseconds")
    for title, pace_ns in PACES_NS.items():
        best = rounds(steps, pace_ns)
        print(f"\n{title:32s}{'median':>9s}{'p99':>9s}{'x bare':>8s}")
        for name, figures in best.items():
            print(f"{name:32s}{figures['p50']:9.1f}{figures['p99']:9.1f}{figures['p50'] / best['bare']['p50']:8.2f}")
    sender_share()


def rounds(steps: int, pace_ns: int) -> dict[str, dict[str, float]]:
    """Each contender's best figures."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--child", name, str(steps), str(pace_ns)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode or not done.stdout:
                raise SystemExit(f"{name} failed: {done.stderr[-500:]}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {name: {key: min(one[key] for one in found) for key in found[0]} for name, found in results.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
