"""The runtime environment that Ray hands to the workers: ours is added, nobody else's is touched."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhfd_emitter.ray_env import HOOK, HOOK_VARIABLE, NEXT_HOOK_VARIABLE, install, runtime_env_hook


@pytest.fixture(autouse=True)
def _a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("RLHFD_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RLHFD_RUN", "r")
    monkeypatch.setenv("RLHFD_BOOT", "b")


OURS = {"RLHFD_RUN": "r", "RLHFD_BOOT": "b"}
MERGED: list[tuple[Any, Any]] = [
    (None, {"env_vars": OURS}),
    ({}, {"env_vars": OURS}),
    ({"env_vars": None}, {"env_vars": OURS}),
    ({"env_vars": {"NCCL_DEBUG": "WARN"}}, {"env_vars": {"NCCL_DEBUG": "WARN", **OURS}}),
    ({"env_vars": {"RLHFD_RUN": "the user's"}}, {"env_vars": {"RLHFD_RUN": "the user's", "RLHFD_BOOT": "b"}}),
    (
        {"working_dir": "/src", "pip": ["x"], "worker_process_setup_hook": "a.b"},
        {"working_dir": "/src", "pip": ["x"], "worker_process_setup_hook": "a.b", "env_vars": OURS},
    ),
]


@pytest.mark.parametrize(("given", "expected"), MERGED)
def test_our_variables_are_added_and_the_user_s_win(given: Any, expected: Any) -> None:
    before = copy.deepcopy(given)
    assert runtime_env_hook(given) == expected
    assert given == before


def test_only_our_own_variables_travel_and_all_of_them_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHFD_ENDPOINT", "tcp://10.0.0.1:5599")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv(HOOK_VARIABLE, HOOK)
    monkeypatch.setenv(NEXT_HOOK_VARIABLE, "")
    assert runtime_env_hook(None)["env_vars"] == {**OURS, "RLHFD_ENDPOINT": "tcp://10.0.0.1:5599"}


def test_the_hook_may_be_called_again_on_its_own_result() -> None:
    once = runtime_env_hook({"env_vars": {"A": "1"}})
    assert runtime_env_hook(once) == once


USER_HOOK = """
def add(runtime_env):
    runtime_env = dict(runtime_env or {})
    runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), "THEIRS": "1", "RLHFD_RUN": "theirs"}
    return runtime_env
def nothing(runtime_env):
    return None
def broken(runtime_env):
    raise RuntimeError("the user's own error")
"""


@pytest.fixture
def user_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "their_hooks.py").write_text(USER_HOOK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_hooks", raising=False)
    return "their_hooks"


def test_a_hook_the_user_has_set_is_called_before_ours_and_its_name_does_not_travel(
    user_hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK_VARIABLE, f"{user_hook}.add")
    monkeypatch.setenv(NEXT_HOOK_VARIABLE, "")  # so that it is put back, too
    install(os.environ)
    assert os.environ[HOOK_VARIABLE] == HOOK
    assert runtime_env_hook({"env_vars": {"A": "1"}})["env_vars"] == {
        "A": "1", "THEIRS": "1", "RLHFD_RUN": "theirs", "RLHFD_BOOT": "b",
    }  # fmt: skip


def test_a_user_s_hook_that_returns_nothing_or_raises_is_theirs(
    user_hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NEXT_HOOK_VARIABLE, f"{user_hook}.nothing")
    assert runtime_env_hook({"env_vars": {"A": "1"}}) == {"env_vars": OURS}
    monkeypatch.setenv(NEXT_HOOK_VARIABLE, f"{user_hook}.broken")
    with pytest.raises(RuntimeError, match="the user's own error"):
        runtime_env_hook(None)


INSTALLED = [
    ({}, {HOOK_VARIABLE: HOOK}),
    ({HOOK_VARIABLE: ""}, {HOOK_VARIABLE: HOOK}),
    ({HOOK_VARIABLE: HOOK}, {HOOK_VARIABLE: HOOK}),
    ({HOOK_VARIABLE: "their.hook"}, {HOOK_VARIABLE: HOOK, NEXT_HOOK_VARIABLE: "their.hook"}),
]


@pytest.mark.parametrize(("environ", "expected"), INSTALLED)
def test_installing_twice_is_installing_once(environ: dict[str, str], expected: dict[str, str]) -> None:
    environ = dict(environ)
    for _ in range(2):
        install(environ)
        assert environ == expected


def test_the_name_that_ray_is_given_is_the_hook_s() -> None:
    module, _, name = HOOK.rpartition(".")
    assert (runtime_env_hook.__module__, runtime_env_hook.__name__) == (module, name)
