"""What hatch_build.py compiles is in force here, gives the results of its sources, and gives way to newer ones."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlhfd_daemon
from rlhfd_daemon import compiled
from rlhfd_daemon.analyzers import track
from rlhfd_daemon.checkpoints.kernel import library_path

PACKAGE = Path(rlhfd_daemon.__file__).parent
TRACES = sorted((Path(__file__).parent / "fixtures" / "traces").rglob("*.jsonl.gz"))
needs_compiler = pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler here")
SAY = "import rlhfd_daemon.analyzers.track as track; print(track.__file__)"
SAY_KERNEL = "from rlhfd_daemon.checkpoints.kernel import kernel; print(type(kernel()).__name__)"


def python(*arguments: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=250, env={**os.environ, **environ}
    )
    assert done.stderr == ""
    return done.stdout


@needs_compiler
def test_the_compiled_form_of_these_sources_is_in_force() -> None:
    assert compiled.libraries(PACKAGE), "it is of other sources: make compile"
    if os.environ.get("RLHFD_PURE", "0") in ("", "0"):
        assert track.__file__ is not None
        assert track.__file__.endswith(".so")


def test_without_it_the_sources_are_interpreted() -> None:
    assert python("-c", SAY, RLHFD_PURE="1") == f"{PACKAGE / 'analyzers' / 'track.py'}\n"


@needs_compiler
def test_the_compiled_kernel_of_the_checkpoints_is_in_force_unless_it_shall_not_be() -> None:
    assert python("-c", SAY_KERNEL, RLHFD_PURE="0") == "Native\n", "it is of another source: make compile"
    assert python("-c", SAY_KERNEL, RLHFD_PURE="1") == "Numpy\n"


def test_a_kernel_of_another_source_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    source = tmp_path / "checkpoints" / "kernel.c"
    found = []
    for text in ("int one;", "int two;", "int one;"):
        source.write_text(text)
        found.append(library_path(tmp_path))
    assert found[0] == found[2] != found[1]
    shutil.copy(PACKAGE / "checkpoints" / "kernel.c", source)
    assert library_path(tmp_path).name == library_path().name
    assert library_path().parent == PACKAGE / "native"


CHECKS = """
import json, sys
from typer.testing import CliRunner
import rlhfd_daemon.analyzers.track as track
from rlhfd_daemon.cli import app
def check(path):
    done = CliRunner().invoke(app, ["check", "--json", path])
    return [done.exit_code, done.stdout, done.stderr]
print(json.dumps({"form": track.__file__[-3:], **{path: check(path) for path in sys.argv[1:]}}))
"""


@needs_compiler
def test_both_forms_find_the_same(tmp_path: Path) -> None:
    logs = [tmp_path / path.stem for path in TRACES[::9]]
    for path, log in zip(TRACES[::9], logs, strict=True):
        log.write_bytes(gzip.decompress(path.read_bytes()))
    compiled_form, sources = (json.loads(python("-c", CHECKS, *map(str, logs), RLHFD_PURE=pure)) for pure in ("0", "1"))
    assert (compiled_form.pop("form"), sources.pop("form")) == (".so", ".py")
    assert len(sources) == len(logs) > 10
    assert {code for code, _, _ in sources.values()} >= {0, 2}
    assert [path for path, (code, said, _) in sources.items() if code and not said] == []
    assert [path for path in sources if compiled_form[path] != sources[path]] == []


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with one compiled module, as hatch_build.py leaves it."""
    folder = tmp_path / "rlhfd_daemon"
    (folder / "native").mkdir(parents=True)
    (folder / "one.py").write_text("X = 1\n")
    source = compiled.digest(folder, "rlhfd_daemon.one")
    stamp = {"suffix": compiled.SUFFIX, "sources": {"rlhfd_daemon.one": source}}
    (folder / "native" / "stamp.json").write_text(json.dumps(stamp))
    (folder / "native" / f"rlhfd_daemon.one{compiled.SUFFIX}").write_bytes(b"")
    return folder


def test_libraries_are_found_by_the_name_of_their_module(package: Path) -> None:
    assert compiled.libraries(package) == {
        "rlhfd_daemon.one": package / "native" / f"rlhfd_daemon.one{compiled.SUFFIX}"
    }


@pytest.mark.parametrize("what", ["edited", "removed", "other interpreter", "no stamp", "bad stamp", "list"])
def test_what_does_not_belong_to_the_sources_is_not_used(package: Path, what: str) -> None:
    stamp = package / "native" / "stamp.json"
    match what:
        case "edited":
            (package / "one.py").write_text("X = 2\n")
        case "removed":
            (package / "one.py").unlink()
        case "other interpreter":
            stamp.write_text(stamp.read_text().replace(compiled.SUFFIX, ".cpython-27.so"))
        case "no stamp":
            stamp.unlink()
        case "bad stamp":
            stamp.write_text("{")
        case _:
            stamp.write_text("[]")
    assert compiled.libraries(package) == {}
