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

IMPORT = (
    "import time; began = time.perf_counter()\n"
    "from rlhfd_emitter import Emitter; emitter = Emitter('r')\n"
    "print((time.perf_counter() - began) * 1e3, flush=True); import os; os._exit(0)"
)


def start(arguments: list[str], environ: dict[str, str]) -> float:
    """Wall time of one interpreter from start to end, milliseconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environ, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1e3


def import_and_make(environ: dict[str, str]) -> float:
    """Import and construction as the importing process itself sees them, milliseconds."""
    done = subprocess.run([sys.executable, "-c", IMPORT], env=environ, check=True, capture_output=True)
    return float(done.stdout)


def main(rounds: int) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("RLHFD_")}
    pth = (Path(__file__).parents[2] / "emitter/rlhfd_emitter/startup/rlhfd.pth").read_text()
    with tempfile.TemporaryDirectory() as with_pth, tempfile.TemporaryDirectory() as without:
        Path(with_pth, "rlhfd.pth").write_text(pth)
        # -I -S and one site directory, with and without our start-up file: the whole difference of an install.
        cases = [["-I", "-S", "-c", f"import site; site.addsitedir({folder!r})"] for folder in (without, with_pth)]
        starts = [[start(case, environ) for case in cases] for _ in range(rounds)]
    imports = [import_and_make(environ) for _ in range(rounds)]
    absent, present = (statistics.median(column) for column in zip(*starts, strict=True))
    print(f"start of Python, rlhfd not installed       {absent:8.2f} ms")
    print(f"start of Python, installed, RLHFD_RUN unset{present:8.2f} ms ({present - absent:+.2f})")
    print(f"import of Emitter and making one           {statistics.median(imports):8.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
