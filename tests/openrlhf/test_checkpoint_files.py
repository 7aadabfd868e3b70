"""Files that torch and safetensors of the OpenRLHF environment just wrote: every tensor has the bytes torch says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from openrlhf.lab import Lab
from rlhfd_daemon.checkpoints import safetensors, torchzip
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.reading import blocks

PROGRAM = Path(__file__).with_name("make_checkpoints.py")


def test_every_tensor_of_every_file_has_the_bytes_that_torch_says(tmp_path: Path) -> None:
    lab = Lab.find()
    subprocess.run([lab.python, PROGRAM, tmp_path], env=lab.environment(), check=True, timeout=300)
    names = [path.name for path in tmp_path.iterdir() if path.suffix != ".json"]
    assert len(names) > 10
    with Folder.open(tmp_path) as folder:
        for name in names:
            reader = safetensors if name.endswith(".safetensors") else torchzip
            with folder.file(name) as file:
                found = reader.read(file)
                described = {
                    one.name: {
                        "dtype": one.dtype,
                        "shape": list(one.shape),
                        "hex": b"".join(map(bytes, blocks(one, file, 16))).hex(),
                    }
                    for one in found.tensors
                }
            assert described == json.loads((tmp_path / f"{name}.json").read_text("utf-8")), name
            assert {one.kind for one in found.defects} <= {"shared"}, name
