"""Where emitter and daemon meet when nobody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlhfd_emitter import Emitter, endpoint
from rlhfd_emitter.endpoint import MAX_IPC_PATH_BYTES, default_endpoint, ipc_path, runtime_directory

EVERYTHING = {
    "RLHFD_ENDPOINT": "tcp://10.0.0.1:5599",
    "RLHFD_RUNTIME_DIR": "/srv/rlhfd",
    "XDG_RUNTIME_DIR": "/run/user/1000",
}


@pytest.fixture
def _an_ordinary_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(endpoint, "SYSTEM_DIRECTORY", str(tmp_path / "absent"))
    monkeypatch.setenv("HOME", "/home/me")


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in EVERYTHING.items() if name not in names}


@pytest.mark.usefixtures("_an_ordinary_user")
def test_the_closest_word_wins() -> None:
    assert default_endpoint(EVERYTHING) == "tcp://10.0.0.1:5599"
    assert default_endpoint(without("RLHFD_ENDPOINT")) == "ipc:///srv/rlhfd/rlhfd.sock"
    assert default_endpoint({"XDG_RUNTIME_DIR": "/run/user/1000"}) == "ipc:///run/user/1000/rlhfd/rlhfd.sock"
    assert default_endpoint({}) == "ipc:///home/me/.local/state/rlhfd/run/rlhfd.sock"


@pytest.mark.usefixtures("_an_ordinary_user")
def test_an_empty_variable_is_an_unset_one() -> None:
    assert default_endpoint(dict.fromkeys(EVERYTHING, "")) == default_endpoint({})


@pytest.mark.usefixtures("_an_ordinary_user")
def test_the_service_s_directory_is_used_where_it_is_and_by_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    monkeypatch.setattr(endpoint, "SYSTEM_DIRECTORY", str(tmp_path))
    assert runtime_directory(session) == tmp_path
    monkeypatch.setattr(endpoint, "SYSTEM_DIRECTORY", str(tmp_path / "absent"))
    assert runtime_directory(session) == Path("/run/user/1000/rlhfd")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime_directory(session) == tmp_path / "absent"
    assert runtime_directory(EVERYTHING) == Path("/srv/rlhfd")


@pytest.mark.usefixtures("_an_ordinary_user")
def test_the_process_s_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in EVERYTHING.items():
        monkeypatch.setenv(name, value)
    assert default_endpoint() == "tcp://10.0.0.1:5599"
    assert runtime_directory() == Path("/srv/rlhfd")


def test_the_default_is_never_where_others_can_create_names() -> None:
    assert not default_endpoint().startswith("ipc:///tmp")


PATHS = [("ipc:///a/b.sock", "/a/b.sock"), ("ipc://", ""), ("tcp://host:1", None), ("", None)]


@pytest.mark.parametrize(("url", "path"), PATHS)
def test_only_ipc_endpoints_have_a_path(url: str, path: str | None) -> None:
    assert ipc_path(url) == path


@pytest.mark.parametrize("url", ["http://h", "/a/b.sock", "inproc://x", "ipc:///" + "x" * MAX_IPC_PATH_BYTES])
def test_an_endpoint_that_cannot_work_turns_the_emitter_off(url: str) -> None:
    emitter = Emitter("r", endpoint=url)
    assert emitter.off_reason is not None
    assert "endpoint" in emitter.off_reason


def test_the_longest_possible_path_is_taken() -> None:
    emitter = Emitter("r", endpoint="ipc:///" + "x" * (MAX_IPC_PATH_BYTES - 1))
    emitter.close(0)
    assert emitter.off_reason is None
