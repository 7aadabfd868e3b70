"""How fast and in how much memory the tensors of a checkpoint are counted, beside numpy and torch on whole tensors.

`make bench-checkpoint`, or `PYTHONPATH=tests .venv/bin/python tests/bench/checkpoint.py [GB of the large one]`. Files
are in the page cache, reading them is included; medians of rounds that take turns, torch's behind them. Seconds are of
CPU, which on a quiet core are those of the clock. Ours tells everything, numpy and torch are spared the quantiles.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics as medians
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlhfd_daemon.checkpoints.kernel import Kernel, Native, kernel
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.portable import Numpy
from rlhfd_daemon.checkpoints.reading import BLOCK, blocks
from rlhfd_daemon.checkpoints.safetensors import read
from rlhfd_daemon.checkpoints.statistics import statistics
from rlhfd_daemon.checkpoints.tally import tally
from support import peak_bytes

TENSOR_BYTES, TENSORS, ROUNDS = 64 << 20, 2, 5
TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
LIMIT_BYTES = 256 << 20
IN_TORCH = """
import sys, time, torch
torch.set_num_threads(1)
path, dtype, size, count, rounds = sys.argv[1], getattr(torch, sys.argv[2]), *map(int, sys.argv[3:])
took = []
for _ in range(rounds + 1):
    began = time.process_time()
    with open(path, "rb") as file:
        file.seek(-size * count, 2)
        for _ in range(count):
            values = torch.frombuffer(bytearray(file.read(size)), dtype=dtype).float()
            torch.std_mean(values), torch.aminmax(values), values.norm()
            torch.isnan(values).sum(), torch.isinf(values).sum(), (values == 0).sum()
    took.append(time.process_time() - began)
print(sorted(took[1:])[rounds // 2])
"""


def weights(dtype: str, size: int) -> bytes:
    """As a model's: normal, standard deviation 0.02."""
    values = np.random.default_rng(0).standard_normal(size // (4 if dtype == "float32" else 2), np.float32)
    values *= 0.02
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype(dtype).tobytes()


def write(path: Path, dtype: str, count: int) -> None:
    """A safetensors file of ``count`` tensors."""
    data = weights(dtype, TENSOR_BYTES)
    shape = [len(data) // (4 if dtype == "float32" else 2)]
    entries = {
        f"model.layers.{i}.mlp.up_proj.weight": {
            "dtype": TYPES[dtype], "shape": shape, "data_offsets": [i * len(data), (i + 1) * len(data)]
        }
        for i in range(count)
    }  # fmt: skip
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(count):
            file.write(data)


def ours(path: Path, using: Kernel) -> None:
    """Everything that is told of each tensor."""
    with Folder.open(path.parent) as folder, folder.file(path.name) as opened:
        for tensor in read(opened).tensors:
            statistics(tally(tensor.dtype, blocks(tensor, opened), using))


def whole_arrays(path: Path, dtype: str) -> None:
    """As one writes it with numpy."""
    with path.open("rb") as file:
        file.seek(-TENSOR_BYTES * TENSORS, os.SEEK_END)
        for _ in range(TENSORS):
            codes = np.frombuffer(file.read(TENSOR_BYTES), np.uint16 if dtype == "bfloat16" else dtype)
            wide = (codes.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else codes
            values = wide.astype(np.float32, copy=False)
            values.mean(), values.std(), values.min(), values.max(), np.linalg.norm(values)
            np.isnan(values).sum(), np.isinf(values).sum(), (values == 0).sum()


def copied(path: Path) -> None:
    """Only read into one buffer: no scan of a file is faster."""
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def rounds(path: Path, dtype: str) -> dict[str, float]:
    """Medians, in seconds, by contender."""
    contenders: dict[str, Callable[[], object]] = {
        "read": lambda: copied(path),
        "C": lambda: ours(path, kernel()),
        "fallback": lambda: ours(path, Numpy()),
        "numpy": lambda: whole_arrays(path, dtype),
    }
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name, work in contenders.items():
            spent = seconds(work)
            if number:  # the first one warms
                took[name].append(spent)
    found = {name: medians.median(each) for name, each in took.items()}
    for python in sorted(Path.home().glob(".cache/rlhfd/openrlhf-*/venv/bin/python"))[:1]:
        command: list[str | Path] = [python, "-c", IN_TORCH, path, dtype, str(TENSOR_BYTES), str(TENSORS), str(ROUNDS)]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
        found["torch"] = float(done.stdout)
    return found


def speed(folder: Path) -> None:
    print("GB/s of file bytes       read alone   ours (C)   ours (numpy)   numpy whole   torch whole   C to the better")
    for dtype in TYPES:
        path = folder / f"{dtype}.safetensors"
        write(path, dtype, TENSORS)
        took = rounds(path, dtype)
        rate = {name: TENSORS * TENSOR_BYTES / 1e9 / each for name, each in took.items()}
        torch = f"{rate['torch']:11.2f}" if "torch" in rate else "          -"
        best = max(rate["numpy"], rate.get("torch", 0.0))
        numbers = f"{rate['read']:12.2f} {rate['C']:10.2f} {rate['fallback']:14.2f} {rate['numpy']:13.2f}   {torch}"
        print(f"{dtype:22} {numbers} {rate['C'] / best:14.1f} x", flush=True)
        path.unlink()


def memory(folder: Path, gigabytes: float) -> bool:
    """One large file, in a process of its own."""
    free = shutil.disk_usage(folder).free / 1e9
    gigabytes = min(gigabytes, free / 2)
    path = folder / "large.safetensors"
    write(path, "bfloat16", max(1, round(gigabytes * 1e9 / TENSOR_BYTES)))
    done = subprocess.run([sys.executable, __file__, "--child", path], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    size, most = path.stat().st_size / 1e9, found["bytes"] / 2**20
    print(f"{size:.1f} GB of bfloat16: {found['seconds']:.1f} s, {most:.0f} MiB resident at most ({LIMIT_BYTES >> 20})")
    return bool(found["bytes"] <= LIMIT_BYTES)


def child(path: Path) -> None:
    spent = seconds(lambda: ours(path, kernel()))
    print(json.dumps({"seconds": spent, "bytes": peak_bytes()}))


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]))
        return 0
    form = "compiled" if isinstance(kernel(), Native) else "NOT compiled"
    size = TENSORS * TENSOR_BYTES >> 20
    print(f"kernel {form}; load average {os.getloadavg()[0]:.1f}; {ROUNDS} rounds of {size} MiB", flush=True)
    with tempfile.TemporaryDirectory(prefix="rlhfd-bench-") as name:
        speed(Path(name))
        return 0 if memory(Path(name), float(sys.argv[1]) if len(sys.argv) > 1 else 10.0) else 1


if __name__ == "__main__":
    sys.exit(main())
