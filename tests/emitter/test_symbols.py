"""Functions are found in source text, and told from those that another version has elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rlhfd_emitter.symbols import Place, installed_functions, missing_parameters, parse, places

SOURCE = b"""
import absent_module
if True:
    def conditional(a, /, b, *, c): ...
else:
    def other(): ...
try:
    from fast import quick
except ImportError:
    async def quick(*rest, **more): ...
def plain(self):
    def inner(): ...
class Outer:
    def method(self, logs_dict=None): ...
    if True:
        def guarded(self): ...
    class Inner:
        def hidden(self): ...
"""


def test_functions_and_methods_are_found_with_their_parameters_wherever_the_module_defines_them() -> None:
    assert parse("m", SOURCE) == {
        "m.conditional": ("a", "b", "c"),
        "m.other": (),
        "m.quick": (),
        "m.plain": ("self",),
        "m.Outer.method": ("self", "logs_dict"),
        "m.Outer.guarded": ("self",),
    }


FORMER = {"pkg.old": "pkg.new"}
PLACES = [
    ("pkg.new", {"pkg.new"}, Place("pkg.new", "found")),
    ("pkg.new", {"pkg.old"}, Place("pkg.new", "moved", "pkg.old")),
    ("pkg.new", set[str](), Place("pkg.new", "absent")),
    ("pkg.old", {"pkg.old"}, Place("pkg.old", "found")),
    ("pkg.old", {"pkg.new"}, Place("pkg.old", "former", "pkg.new")),
    ("pkg.old", set[str](), Place("pkg.old", "former", "pkg.new")),
    ("gone.f", {"pkg.new"}, Place("gone.f", "uninstalled")),
]


@pytest.mark.parametrize(("symbol", "there", "place"), PLACES)
def test_a_symbol_s_place(symbol: str, there: set[str], place: Place) -> None:
    assert places([symbol], FORMER, dict.fromkeys(there, ()), {"pkg"}, {}) == [place]


SAVES = ("global_step|global_steps", "logs_dict")
PARAMETERS = [
    (SAVES, ("self", "args", "global_step", "step_bar", "logs_dict"), []),
    (SAVES, ("self", "global_steps", "logs_dict"), []),
    (SAVES, ("self", "step"), ["global_step or global_steps", "logs_dict"]),
    (("rank",), ("self", "world_size"), ["rank"]),
    ((), ("self",), []),
]


@pytest.mark.parametrize("at", ["pkg.new", "pkg.old"])
@pytest.mark.parametrize(("read", "parameters", "lacking"), PARAMETERS)
def test_a_parameter_that_a_hook_reads_must_be_there_wherever_the_function_is(
    read: tuple[str, ...], parameters: tuple[str, ...], lacking: list[str], at: str
) -> None:
    assert missing_parameters(read, parameters) == lacking
    (place,) = places(["pkg.new"], FORMER, {at: parameters}, {"pkg"}, {at: read})
    if lacking:
        assert place == Place("pkg.new", "changed", ", ".join(lacking))
    else:
        assert place.status == ("found" if at == "pkg.new" else "moved")


def test_installed_modules_are_read_and_never_imported(tmp_path: Path) -> None:
    package = tmp_path / "somepackage" / "deep"
    package.mkdir(parents=True)
    (package / "good.py").write_text("raise SystemExit\ndef f(x): ...\n")
    (package / "bad.py").write_text("def f(:\n")
    (package / "binary.py").write_bytes(b"\0\1")
    modules = [f"somepackage.deep.{name}" for name in ("good", "bad", "binary", "absent")] + ["otherpackage.m"]
    found, packages = installed_functions(
        modules, lambda name: [tmp_path / "nowhere", tmp_path / name] if name == "somepackage" else []
    )
    assert found == {"somepackage.deep.good.f": ("x",)}
    assert packages == {"somepackage"}


def test_an_installed_package_is_found_by_its_name_and_a_stranger_is_not() -> None:
    found, packages = installed_functions(["msgpack.fallback", "no_such_package.m"])
    assert "msgpack.fallback.Packer.pack" in found
    assert packages == {"msgpack"}
    assert "no_such_package" not in sys.modules
