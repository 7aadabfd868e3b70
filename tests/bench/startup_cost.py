"""What importing the emitter costs, and what `rlhfd.pth` costs every Python process of the environment.

Usage: python tests/bench/startup_cost.py [ROUNDS]. Medians over fresh interpreters, in milliseconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(arguments: list[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environ, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1e3


def main(rounds: int) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("RLHFD_")}
    # -I -S plus the one site directory, with and without our start-up file, is the whole difference of an install.
    pth = (Path(__file__).parents[2] / "emitter/rlhfd_emitter/startup/rlhfd.pth").read_text()
    with tempfile.TemporaryDirectory() as with_pth, tempfile.TemporaryDirectory() as without:
        Path(with_pth, "rlhfd.pth").write_text(pth)
        cases = {
            "start, not installed": ["-I", "-S", "-c", f"import site; site.addsitedir({without!r})"],
            "start, installed, RLHFD_RUN unset": ["-I", "-S", "-c", f"import site; site.addsitedir({with_pth!r})"],
            "import of the standard library only": ["-c", "import logging, threading, collections, atexit"],
            "import rlhfd_emitter.Emitter": ["-c", "import logging, threading, collections, atexit\n"
                                                   "from rlhfd_emitter import Emitter; Emitter('r')._sender.stop(0)"],
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, arguments in cases.items():
                times[name].append(start(arguments, environ))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:40s}{value:8.1f} ms")
    names = list(cases)
    print(f"{'added to every process':40s}{medians[names[1]] - medians[names[0]]:8.2f} ms")
    print(f"{'added by import and construction':40s}{medians[names[3]] - medians[names[2]]:8.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
