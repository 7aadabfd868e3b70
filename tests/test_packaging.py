"""The wheel: what is in it, and that its start-up file costs nothing where nobody asked for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"rlhfd_alerts", "rlhfd_daemon", "rlhfd_emitter"}
OFFLINE = ("No matching distribution", "Temporary failure in name resolution", "Failed to establish", "ConnectionError")
HEAVY = {"zmq", "msgpack", "msgspec", "aiohttp", "typer", "rlhfd_daemon", "rlhfd_alerts"}
SHOW = "import json, sys; print(json.dumps(sorted(sys.modules)))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once, by the front end that users have."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--wheel-dir",
        str(folder),
        "--retries",
        "1",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if result.returncode != 0 and any(sign in result.stderr for sign in OFFLINE):
        pytest.skip("pip cannot reach a package index for the build backend")
    assert result.returncode == 0, result.stderr[-3000:]
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter whose site-packages hold the wheel; the emitter's libraries come from this environment."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A path without its .pth files: this environment's own installation of rlhfd must stay out.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def modules(python: Path, *arguments: str, **environ: str) -> set[str]:
    """What an interpreter has imported by the time it runs our line."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RLHFD_", "PYTHON"))}
    result = subprocess.run(
        [str(python), *(arguments or ("-c", SHOW))],
        capture_output=True, text=True, timeout=60, env={**clean, **environ},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    found: list[Any] = json.loads(result.stdout)
    return set(found)


def ours(found: set[str]) -> set[str]:
    return {name for name in found if name.partition(".")[0] in PACKAGES | HEAVY}


def test_the_wheel_holds_three_packages_and_the_start_up_files_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    stem = "-".join(wheel.name.split("-")[:2])
    assert top == {*PACKAGES, "rlhfd.pth", "rlhfd.start", f"{stem}.dist-info", f"{stem}.data"}
    assert f"{stem}.data/data/share/rlhfd/rlhfd.service" in names
    assert f"{stem}.dist-info/entry_points.txt" in names
    assert not [name for name in names if re.search(r"(^|/)(tests?/|test_|conftest)", name)]
    sources = {str(path.relative_to(folder.parent)) for folder in package_folders() for path in folder.rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def package_folders() -> list[Path]:
    return [ROOT / name.removeprefix("rlhfd_") / name for name in PACKAGES]


def test_the_wheel_is_for_every_machine(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_metadata_asks_for_two_libraries_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0] for line in required) == ["msgpack", "pyzmq"]


def test_without_a_run_the_start_up_file_imports_nothing_of_ours(python: Path) -> None:
    assert ours(modules(python)) == set()
    assert ours(modules(python, RLHFD_RUN="")) == set()


def test_in_a_run_a_process_that_is_not_openrlhf_s_gets_nothing_heavy(python: Path) -> None:
    found = ours(modules(python, RLHFD_RUN="ppo-1"))
    assert "rlhfd_emitter.bootstrap" in found, "the start-up file is in force"
    assert {name.partition(".")[0] for name in found} & HEAVY == set()
    assert ours(modules(python, "-S", "-c", SHOW, RLHFD_RUN="ppo-1")) == set()


def test_a_start_up_file_whose_package_is_gone_or_broken_is_silent(python: Path) -> None:
    site = next((python.parents[1] / "lib").glob("python*")) / "site-packages"
    bootstrap = site / "rlhfd_emitter" / "bootstrap.py"
    hidden = bootstrap.with_suffix(".hidden")
    text = bootstrap.read_text()
    bootstrap.rename(hidden)
    try:
        assert modules(python, RLHFD_RUN="ppo-1")
        bootstrap.write_text("import sys; sys.exit(3)")
        assert modules(python, RLHFD_RUN="ppo-1")
    finally:
        hidden.unlink()
        bootstrap.write_text(text)


def test_the_installed_command_runs_without_the_daemon_s_libraries(python: Path) -> None:
    command = [str(python), "-m", "rlhfd_daemon", "run", "--run", "x", "--", "true"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "rlhfd: observing run x\n")
