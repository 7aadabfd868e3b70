"""Compiles what each sample goes through, with mypyc, on the way into an editable installation; and what each byte of a
checkpoint goes through, which is C.

A wheel holds it only with RLHFD_COMPILE=1, since it then is for one kind of machine. Without a C compiler, or with
RLHFD_PURE=1, the same modules are interpreted: slower, nothing else. The result lies in ``rlhfd_daemon/native`` and is
used while its sources are what they were (``rlhfd_daemon/compiled.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCE = ROOT / "daemon"
NATIVE = SOURCE / "rlhfd_daemon" / "native"
KERNEL = SOURCE / "rlhfd_daemon" / "checkpoints" / "kernel.c"
KERNEL_FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-fPIC", "-shared")
SECONDS = 900
MODULES = (
    *(f"rlhfd_daemon.analyzers.{name}" for name in (
        "absence", "adaptive", "baseline", "changes", "dispatch", "forecast_steps", "joint", "non_finite", "overdue",
        "presence", "scale", "series", "track",
    )),
    *(f"rlhfd_daemon.rules.{name}" for name in ("calm", "evaluate", "histories", "hold", "watching")),
)  # fmt: skip


class CompileHook(BuildHookInterface[Any]):
    """Named in pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless that was done."""
        if _is_set("RLHFD_PURE") or (version != "editable" and not _is_set("RLHFD_COMPILE")):
            return
        if not (is_fresh() and kernel_library().exists()):
            done = subprocess.run(
                [sys.executable, __file__], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            if done.returncode != 0:
                self.app.display_warning(f"not compiled, so slower: {(done.stdout + done.stderr)[-2000:]}")
                return
        build_data["artifacts"].append("/daemon/rlhfd_daemon/native/*")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def stamp() -> dict[str, Any]:
    """What the compiled modules belong to."""
    files = {name: SOURCE / (name.replace(".", "/") + ".py") for name in MODULES}
    return {
        "suffix": sysconfig.get_config_var("EXT_SUFFIX"),
        "sources": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
    }


def is_fresh() -> bool:
    try:
        return bool(json.loads((NATIVE / "stamp.json").read_text(encoding="utf-8")) == stamp())
    except (OSError, ValueError):
        return False


def main() -> None:
    """Compile into :data:`NATIVE` if need be; exits with mypy's or the compiler's message if that fails."""
    compile_kernel()
    if is_fresh():
        return
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    of = stamp()
    os.environ["MYPYPATH"] = os.pathsep.join(str(ROOT / name) for name in ("alerts", "daemon", "emitter"))
    paths = [f"daemon/{name.replace('.', '/')}.py" for name in MODULES]
    with tempfile.TemporaryDirectory() as folder:
        extensions = mypycify(
            ["--config-file=", "--ignore-missing-imports", *paths], opt_level="2", debug_level="0", target_dir=folder
        )
        command = build_ext(Distribution({"name": "rlhfd", "ext_modules": extensions}))
        command.build_lib, command.build_temp = f"{folder}/lib", f"{folder}/temp"
        command.ensure_finalized()
        command.run()
        place(Path(folder, "lib"), of)


def kernel_library() -> Path:
    """Where the kernel of the checkpoints is: named by its source, so that one of another source is not found."""
    return NATIVE / f"kernel-{hashlib.sha256(KERNEL.read_bytes()).hexdigest()[:16]}.so"


def compile_kernel() -> None:
    """Compile the kernel of the checkpoints if need be; exits with the compiler's message if that fails."""
    library, compiler = kernel_library(), shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if library.exists():
        return
    if compiler is None:
        sys.exit("there is no C compiler")
    NATIVE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=NATIVE) as folder:
        made = Path(folder, library.name)
        done = subprocess.run([compiler, *KERNEL_FLAGS, "-o", made, KERNEL, "-lm"], check=False)
        if done.returncode != 0:
            sys.exit(done.returncode)
        for old in NATIVE.glob("kernel-*.so"):
            old.unlink()
        made.replace(library)


def place(built: Path, of: dict[str, Any]) -> None:
    """Put the libraries side by side, each under its module's whole name; the stamp comes last."""
    NATIVE.mkdir(exist_ok=True)
    for old in {*NATIVE.iterdir()} - {kernel_library()}:
        old.unlink()
    for library in built.rglob(f"*{of['suffix']}"):
        name = ".".join(library.relative_to(built).parts)
        (NATIVE / name).write_bytes(library.read_bytes())
    (NATIVE / "stamp.json").write_text(json.dumps(of), encoding="utf-8")


if __name__ == "__main__":
    main()
