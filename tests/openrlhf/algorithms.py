"""Runs of every algorithm and topology of OpenRLHF's PPO command, under observation; two of them save at every step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf.lab import Lab
from openrlhf.runs import VARIANTS, rows, start_ppo, under_rlhfd
from openrlhf.watched import EVERY_STEP, Watched, watched
from rlhfd_daemon.frame import Frame
from support import DaemonProcess, running_daemon, wait_for

STEPS = 4
AT_A_TIME = 2  # about 6 GB each
DUMPED = ("reinforce", "packed")
SAVING = ("async", "reinforce")


@dataclass(frozen=True)
class Outcome:
    """What is left of one run that ended well; ``dump`` has the trained tensors of those in ``DUMPED``."""

    frames: list[Frame]
    logged: list[dict[str, Any]]
    streams: list[dict[str, Any]]
    dump: Path
    watched: Watched

    def phases(self, role: str, name: str) -> list[tuple[Frame, Frame]]:
        """Begin and end of every ``name`` phase of ``role``, in order."""
        frames = [frame for frame in self.frames if frame.role == role and frame.fields.get("phase") == name]
        begun = [frame for frame in frames if frame.event == "phase_begin"]
        ended = {(frame.stream, frame.fields["id"]): frame for frame in frames if frame.event == "phase_end"}
        return [(frame, ended[frame.stream, frame.fields["id"]]) for frame in begun]


def run_algorithms(lab: Lab, ray: str, folder: Path) -> dict[str, Outcome]:
    """All of ``VARIANTS``, by name."""
    with running_daemon(folder) as daemon:

        def run(name: str) -> Watched:
            return _run(name, lab, ray, folder, daemon)

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            seen = dict(zip(VARIANTS, pool.map(run, VARIANTS), strict=True))
        wait_for(lambda: all(stream["ended"] for stream in daemon.streams().values()))
        streams = {run["run"]: run["streams"] for run in daemon.status()["runs"]}
    frames = daemon.frames()
    return {
        name: Outcome(
            [frame for frame in frames if frame.run == name],
            rows(folder / f"{name}.jsonl"),
            streams[name],
            folder / f"{name}-dump",
            seen[name],
        )
        for name in VARIANTS
    }


def _run(name: str, lab: Lab, ray: str, folder: Path, daemon: DaemonProcess) -> Watched:
    dump = folder / f"{name}-dump"
    dump.mkdir()
    process = start_ppo(
        lab, ray, name, steps=STEPS, log=folder / f"{name}.log", trace=folder / f"{name}.jsonl",
        prefix=under_rlhfd(lab, name, daemon.endpoint), env={"LAB_DUMP": str(dump)} if name in DUMPED else {},
        extra=(*VARIANTS[name], *(EVERY_STEP if name in SAVING else ())),
    )  # fmt: skip
    return watched(process, folder / name)
