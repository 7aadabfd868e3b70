"""The compiled form of the modules that every sample goes through, used while it belongs to their sources."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Sequence
from hashlib import sha256
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

__all__ = ["SUFFIX", "CompiledFinder", "digest", "install", "libraries"]

PACKAGE = Path(__file__).parent
SUFFIX: str = sysconfig.get_config_var("EXT_SUFFIX")


class CompiledFinder:
    """A ``sys.meta_path`` entry for ``libraries``, each named by the module that it is."""

    def __init__(self, libraries: dict[str, Path]) -> None:
        self.libraries = libraries

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = self.libraries.get(fullname)
        return None if found is None else spec_from_file_location(fullname, found)


def install(package: Path = PACKAGE) -> CompiledFinder | None:
    """Use what hatch_build.py has compiled into ``package``/native, if it is of these sources and for this interpreter,
    and RLHFD_PURE is not set; else the sources are interpreted: the same results, slower."""
    found = {} if os.environ.get("RLHFD_PURE", "") not in ("", "0") else libraries(package)
    if not found:
        return None
    finder = CompiledFinder(found)
    sys.meta_path.insert(0, finder)
    return finder


def libraries(package: Path) -> dict[str, Path]:
    """The compiled modules by name; none if one of them is of another source or interpreter."""
    native = package / "native"
    try:
        stamp = json.loads((native / "stamp.json").read_text(encoding="utf-8"))
        if stamp["suffix"] != SUFFIX or any(digest(package, name) != one for name, one in stamp["sources"].items()):
            return {}
        return {path.name.removesuffix(SUFFIX): path for path in native.glob(f"*{SUFFIX}")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # none there, or none of ours


def digest(package: Path, module: str) -> str:
    """What tells one source from another."""
    return sha256(package.parent.joinpath(*module.split(".")).with_suffix(".py").read_bytes()).hexdigest()
