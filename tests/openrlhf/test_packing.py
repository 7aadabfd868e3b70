"""Packed-token efficiency against what OpenRLHF's own packing makes of the same samples."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from openrlhf.lab import Lab

RINGS = (1, 2, 3, 8)


def test_positions_and_tokens_are_those_that_openrlhf_packs(lab: Lab) -> None:
    here, environment = Path(__file__).parent, lab.environment()
    environment["PYTHONPATH"] += f"{os.pathsep}{here.parent}"
    command: list[str | Path] = [lab.python, here / "packing_in_openrlhf.py", *map(str, RINGS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout.splitlines()[-1])
    for ring, case in zip(RINGS, cases, strict=True):
        found = {name.removeprefix("rlhfd/policy/"): value for name, value in case["signals"].items()}
        positions, tokens = sum(case["positions"]), sum(case["tokens"])
        assert (found["micro_batches"], found["positions"], found["sequence_tokens"]) == (5, positions, tokens)
        assert found["packing_efficiency_ratio"] == pytest.approx(tokens / positions)
        assert found["micro_batch_tokens_max"] == max(case["tokens"])
        assert all(each % ring == 0 for each in case["positions"])
    efficiencies = [case["signals"]["rlhfd/policy/packing_efficiency_ratio"] for case in cases]
    assert efficiencies[0] == 1 > efficiencies[-1] > 0.8
