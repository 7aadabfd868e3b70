"""A sentinel file is whole or not there, and never written through a link that somebody else has put in its way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlhfd_daemon.actions.act import Act, ActionError
from rlhfd_daemon.actions.sentinel import content_of, path_of, write


def act(run: str = "ppo") -> Act:
    return Act(
        id="act_1", name="sentinel", type="sentinel", dry_run=False, run=run, boot="b", rule="non_finite",
        episode="ep_1", opening=1, step=7, summary="train/loss is NaN", decided_at=1.7e9,
    )  # fmt: skip


def test_it_says_what_it_is_about_and_others_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "stop.json"
    old = os.umask(0o077)
    try:
        write(str(path), content_of(act()))
    finally:
        os.umask(old)
    assert json.loads(path.read_text()) == {
        "run": "ppo", "boot": "b", "episode": "ep_1", "rule": "non_finite", "step": 7, "summary": "train/loss is NaN",
        "name": "sentinel", "decided_at": 1.7e9,
    }  # fmt: skip
    assert path.stat().st_mode & 0o7777 == 0o644
    assert os.listdir(tmp_path) == ["stop.json"]


def test_a_file_that_is_there_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "stop"
    path.write_bytes(b"x" * 10_000)
    with path.open("rb") as reader:
        write(str(path), b"new")
        assert reader.read() == b"x" * 10_000, "who has opened the old one reads the old one"
    assert path.read_bytes() == b"new"


def test_a_link_in_its_place_is_left_alone_and_so_is_what_it_leads_to(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "stop"
    victim.write_text("mine")
    path.symlink_to(victim)
    with pytest.raises(ActionError, match="is there and no file"):
        write(str(path), b"new")
    assert victim.read_text() == "mine"
    assert path.is_symlink()


@pytest.mark.parametrize("target", ["elsewhere", "missing"])
def test_a_link_on_the_way_is_named(target: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / target)
    with pytest.raises(ActionError, match="way is a symbolic link: write the path that it leads to"):
        write(str(tmp_path / "way" / "stop"), b"new")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(("path", "said"), [("no/stop", "No such file"), ("stop", "is there and no file")])
def test_what_cannot_be_is_said(path: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "stop").mkdir()
    with pytest.raises(ActionError, match=said):
        write(str(tmp_path / path), b"new")


def test_nothing_is_left_behind_by_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ActionError, match="No space left on device"):
        write(str(tmp_path / "stop"), b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("run", ["../../etc/x", "a/b", ".", "..", "x" * 128, "ü\n\0"])
def test_a_run_s_name_stays_one_part_of_the_path(run: str, tmp_path: Path) -> None:
    path = Path(path_of(f"{tmp_path}/{{run}}.json", act(run)))
    assert path.parent == tmp_path
    write(str(path), b"new")
    assert len(os.listdir(tmp_path)) == 1
    folder = Path(path_of(f"{tmp_path}/{{run}}/stop", act(run)))
    assert folder.parent.parent == tmp_path
    assert folder.parent.name not in (".", "..")
