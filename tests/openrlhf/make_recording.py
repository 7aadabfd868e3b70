"""Makes the recording that `rlhfd demo` plays: a real PPO run whose reward function begins to return a constant.

Usage: python -m openrlhf.make_recording, in tests/, with rlhfd installed in the OpenRLHF environment (as
`make test-openrlhf` leaves it). Paths and the host's name are replaced, everything else is as it was recorded.
"""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from openrlhf.conftest import CHECKOUT
from openrlhf.lab import Lab
from openrlhf.ray_head import ray_head
from openrlhf.runs import start_ppo, under_rlhfd
from rlhfd_daemon.demo import RECORDING
from rlhfd_daemon.framelog import FrameLog
from rlhfd_daemon.recording import read
from rlhfd_daemon.segment import Record
from support import DaemonProcess

STEPS, FAULT_STEP = 90, 61
MAX_BYTES = 500_000


def main() -> None:
    lab = Lab.find()
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory:
        folder = Path(directory)
        record(lab, folder)
        places = {str(folder): "/runs", str(lab.root): "/lab", str(CHECKOUT): "/rlhfd"}
        compressed = lzma.compress(neutral(folder / "state" / "frames", folder / "neutral", places), preset=9)
    if len(compressed) > MAX_BYTES:
        raise SystemExit(f"{len(compressed)} bytes; at most {MAX_BYTES} may be shipped")
    RECORDING.write_bytes(compressed)


def record(lab: Lab, folder: Path) -> None:
    """Run PPO under observation; the frame log is in ``folder/state/frames`` afterwards."""
    daemon = DaemonProcess(folder).start()
    try:
        with (
            ray_head(lab) as ray,
            start_ppo(
                lab,
                ray,
                "ppo-count",
                steps=STEPS,
                reward="const",
                fault_step=FAULT_STEP,
                log=folder / "ppo.log",
                prefix=under_rlhfd(lab, "ppo-count", daemon.endpoint),
            ) as process,
        ):
            if process.wait(900) != 0:
                raise SystemExit(process.tail())
    finally:
        daemon.stop()


def neutral(frames: Path, to: Path, places: Mapping[str, str]) -> bytes:
    """The one segment of the log at ``frames``, with every text that names this machine or a place on it replaced."""
    log = FrameLog(to)
    log.open()
    for one in read(frames):
        if isinstance(one, Record):
            frame = replaced(msgspec.msgpack.decode(one.payload), places)
            assert isinstance(frame, dict)
            if "hostname" in frame.get("fields", {}):
                frame["fields"]["hostname"] = "node-1"
            log.append([(one.received_ns, one.uid, one.pid, msgspec.msgpack.encode(frame))])
    log.close()
    (segment,) = to.glob("frames-*.log")
    return segment.read_bytes()


def replaced(value: object, places: Mapping[str, str]) -> object:
    if isinstance(value, str):
        for place, name in places.items():
            value = value.replace(place, name)
        return value
    if isinstance(value, dict):
        return {key: replaced(item, places) for key, item in value.items()}
    return [replaced(item, places) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
