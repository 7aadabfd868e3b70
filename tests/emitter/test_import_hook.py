"""Stepping in after an import, beside whatever else has a hand in the imports of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PRELUDE = """
import importlib, importlib.abc, importlib.machinery, importlib.util, sys
from rlhfd_emitter import import_hook
seen = []
def look(module):
    seen.append((module.__name__, getattr(module, "value", None)))
"""


def run(directory: Path, program: str, expected: str = "") -> None:
    """Run ``program``, whose assertions are the test, next to the modules in ``directory``."""
    environ = {**os.environ, "PYTHONPATH": str(directory)}
    code = [sys.executable, "-W", "error", "-c", PRELUDE + program]
    result = subprocess.run(code, capture_output=True, text=True, timeout=30, env=environ)
    assert result.returncode == 0, result.stderr
    assert expected in result.stderr
    assert expected or result.stderr == ""


def modules(directory: Path) -> Path:
    (directory / "package").mkdir()
    (directory / "package/__init__.py").write_text("from package.inner import value as inner_value\n")
    (directory / "package/inner.py").write_text("value = 1\nclass Thing: pass\n")
    (directory / "other.py").write_text("value = 2\n")
    (directory / "failing.py").write_text("value = 3\nraise ValueError('its own')\n")
    return directory


def test_the_callback_comes_once_the_module_is_complete_and_only_for_the_names_asked_for(tmp_path: Path) -> None:
    run(modules(tmp_path), """
import_hook.install({"package.inner": look, "not.there": look})
import other
assert seen == []
import package
assert seen == [("package.inner", 1)]
import package.inner
assert len(seen) == 1
""")  # fmt: skip


def test_a_module_that_is_already_imported_gets_its_call_at_once(tmp_path: Path) -> None:
    run(modules(tmp_path), """
import other
import_hook.install({"other": look})
assert seen == [("other", 2)]
""")  # fmt: skip


def test_the_module_looks_as_it_would_without_us(tmp_path: Path) -> None:
    run(modules(tmp_path), """
import inspect
import_hook.install({"package": look, "package.inner": look})
import package.inner as inner, other
assert type(inner.__spec__.loader) is type(other.__spec__.loader)
assert inner.__loader__ is inner.__spec__.loader
assert inner.__file__.endswith("inner.py") and inner.__spec__.origin == inner.__file__
assert "class Thing" in inspect.getsource(inner.Thing)
assert importlib.util.find_spec("package.missing") is None
assert [name for name, _ in seen] == ["package.inner", "package"]
""")  # fmt: skip


def test_an_import_that_fails_fails_as_it_would_without_us(tmp_path: Path) -> None:
    run(modules(tmp_path), """
import_hook.install({"failing": look, "absent": look})
for name, error in (("failing", ValueError), ("absent", ModuleNotFoundError)):
    try:
        importlib.import_module(name)
    except error as caught:
        assert "its own" in str(caught) or caught.name == "absent"
    else:
        raise AssertionError(name)
    assert name not in sys.modules
assert seen == []
""")  # fmt: skip


def test_a_callback_that_goes_wrong_leaves_the_module_importable(tmp_path: Path) -> None:
    """The guard is in ``hooks.install``: the module below has a class whose attributes cannot be set."""
    (tmp_path / "openrlhf/utils/deepspeed").mkdir(parents=True)
    (tmp_path / "openrlhf/utils/deepspeed/deepspeed.py").write_text(
        "class Sealed(type):\n"
        "    def __setattr__(cls, name, value): raise RuntimeError('sealed')\n"
        "class DeepspeedStrategy(metaclass=Sealed):\n"
        "    def save_ckpt(self): return 'saved'\n"
    )
    run(tmp_path, """
from rlhfd_emitter import hooks
process = hooks.install()
from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy
assert DeepspeedStrategy().save_ckpt() == "saved"
assert process.bound == [] and len(process.missing) == len(hooks.WRAPPERS["openrlhf.utils.deepspeed.deepspeed"])
""", expected="DeepspeedStrategy.save_ckpt failed and is switched off: RuntimeError: sealed")  # fmt: skip


OTHER_FINDER = """
class Finder(importlib.abc.MetaPathFinder):
    "The way of import hooks such as wrapt's: asks the rest for the spec and wraps exec_module."
    searching = False
    def find_spec(self, name, path=None, target=None):
        if name != "package.inner" or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        original = spec.loader.exec_module
        def exec_module(module):
            original(module)
            module.value += 10
        spec.loader.exec_module = exec_module
        return spec
"""


def test_another_hook_that_wraps_the_loader_works_before_ours_and_after_ours(tmp_path: Path) -> None:
    modules(tmp_path)
    run(tmp_path, OTHER_FINDER + """
sys.meta_path.insert(0, Finder())
import_hook.install({"package.inner": look})
import package.inner
assert package.inner.value == 11
assert seen == [("package.inner", 11)]
""")  # fmt: skip
    run(tmp_path, OTHER_FINDER + """
import_hook.install({"package.inner": look})
sys.meta_path.insert(0, Finder())
import package.inner
assert package.inner.value == 11
assert seen == [("package.inner", 1)]
""")  # fmt: skip


def test_a_finder_of_the_old_kind_on_the_path_is_left_alone(tmp_path: Path) -> None:
    run(modules(tmp_path), """
class Old: pass
sys.meta_path.insert(0, Old())
import_hook.install({"other": look})
sys.meta_path.remove(next(finder for finder in sys.meta_path if isinstance(finder, Old)))
sys.meta_path.insert(1, Old())
spec = sys.meta_path[0].find_spec("other")
assert spec is not None and spec.name == "other"
""")  # fmt: skip


def test_one_loader_for_many_modules_brings_each_callback_its_own_module_only(tmp_path: Path) -> None:
    """As pytest's assertion rewriting and other import hooks do it."""
    run(modules(tmp_path), """
class OneForAll(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name in ("a", "b", "c"):
            return importlib.machinery.ModuleSpec(name, self)
    def exec_module(self, module):
        module.value = module.__name__ * 2
sys.meta_path.insert(0, OneForAll())
for_b = []
import_hook.install({"a": look, "b": for_b.append})
importlib.util.find_spec("a")  # looked up, as transformers does it, not imported
import a, b, c
assert seen == [("a", "aa")], seen
assert for_b == [b]
""")  # fmt: skip


def test_a_loader_without_room_for_attributes_or_without_exec_module_still_loads(tmp_path: Path) -> None:
    run(modules(tmp_path), """
class Slotted:
    __slots__ = ()
    def create_module(self, spec): return None
    def exec_module(self, module): module.value = 7
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "slotted":
            return importlib.machinery.ModuleSpec(name, Slotted())
sys.meta_path.insert(0, Finder())
import_hook.install({"slotted": look, "namespace": look, "sys": look, "_imp": look})
import slotted
assert slotted.value == 7
""")  # fmt: skip


def test_a_namespace_package_can_be_watched_for_without_harm(tmp_path: Path) -> None:
    (tmp_path / "namespace").mkdir()
    (tmp_path / "namespace/inside.py").write_text("value = 5\n")
    run(tmp_path, """
import_hook.install({"namespace": look, "namespace.inside": look})
import namespace.inside
assert ("namespace.inside", 5) in seen
""")  # fmt: skip


def test_a_reloaded_module_is_seen_again(tmp_path: Path) -> None:
    run(modules(tmp_path), """
import_hook.install({"other": look})
import other
other.value = "changed"
importlib.reload(other)
assert seen == [("other", 2), ("other", 2)], seen
""")  # fmt: skip
