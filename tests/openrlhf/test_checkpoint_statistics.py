"""Statistics of checkpoint tensors equal torch's own in float64, for every type that torch writes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from checkpoint_bytes import DTYPES, both_kernels, cut
from openrlhf.lab import Lab
from rlhfd_daemon.checkpoints.comparison import Comparison, comparison, differences
from rlhfd_daemon.checkpoints.kernel import Kernel
from rlhfd_daemon.checkpoints.statistics import statistics
from rlhfd_daemon.checkpoints.tally import tally

FLOATS = [one for one in DTYPES if "float" in one]
BUCKET = 2.0**-7
COUNTS = ("elements", "nan", "infinite", "zeros", "min", "max")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tensors as raw bytes, and ``told.json``, by torch alone: nothing is installed for it."""
    made = tmp_path_factory.mktemp("tensors")
    lab = Lab.find()
    command = [lab.python, Path(__file__).parent / "statistics_in_torch.py", made]
    subprocess.run(command, env=lab.environment(), check=True, timeout=600)
    return made


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return found


@both_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_equal_torch_s(folder: Path, told: dict[str, Any], dtype: str, using: Kernel) -> None:
    names = [name for name in told["tensors"] if name.startswith(f"{dtype}/")]
    assert names
    for name in names:
        expected = told["tensors"][name]
        found = statistics(tally(dtype, cut((folder / name).read_bytes(), 1 << 20), using))
        assert {one: getattr(found, one) for one in COUNTS} == {one: expected[one] for one in COUNTS}
        assert found.mean == pytest.approx(expected["mean"], rel=1e-9, abs=1e-12 * (found.largest or 0))
        assert found.std == pytest.approx(expected["std"], rel=1e-9)
        assert found.norm == pytest.approx(expected["norm"], rel=1e-9)
        for ours, theirs in zip(found.quantiles or (), expected["quantiles"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-12 if found.quantiles_exact else BUCKET)


def between(folder: Path, old: str, new: str, using: Kernel | None = None) -> Comparison:
    sides = [(name.partition("/")[0], (folder / name).read_bytes()) for name in (old, new)]
    (first, a), (second, b) = sides
    return comparison(differences(first, cut(a, 1 << 16), second, cut(b, 50_000), using))


@both_kernels
@pytest.mark.parametrize("new", FLOATS)
@pytest.mark.parametrize("old", FLOATS)
def test_comparisons_equal_torch_s(folder: Path, told: dict[str, Any], old: str, new: str, using: Kernel) -> None:
    found = between(folder, f"{old}/weights", f"{new}/far", using)
    expected = told["pairs"][f"{old}/weights {new}/far"]
    assert {name: asdict(found)[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_torch_rounds_to_a_type_has_not_changed(folder: Path, dtype: str) -> None:
    assert between(folder, "float64/weights", f"{dtype}/weights").unchanged
    assert between(folder, f"{dtype}/weights", f"{dtype}/weights").unchanged
