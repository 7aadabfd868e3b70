"""The observed process: its role by Ray's title, and the guard round everything of ours."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rlhfd_emitter import log
from rlhfd_emitter.process import Process, guarded, ray_role

TITLES = [
    (b"ray::PolicyModelActor\0", "PolicyModelActor"),
    (b"ray::PolicyModelActor.fit\0\0\0\0", "PolicyModelActor"),
    (b"ray::PPOTrainer.fit()\0", "PPOTrainer"),
    (b"ray::RolloutRayActor.generate   \0", "RolloutRayActor"),
    (b"ray::remote_rm_fn_ray()\0", "remote_rm_fn_ray"),
    (b"ray::RewardModelActor", "RewardModelActor"),
    (b"ray::(PolicyModelActor pid=1)\0", None),
    (b"ray::IDLE\0", None),
    (b"ray::IDLE_SpillWorker\0", None),
    (b"ray::\0", None),
    (b"ray::   \0", None),
    (b"ray::.fit\0", None),
    (b"ray::\xff\xfeActor\0", "\ufffd\ufffdActor"),
    (b"python\0-u\0default_worker.py\0", None),
    (b"python\0ray::PolicyModelActor\0", None),
    (b"", None),
]


@pytest.mark.parametrize(("cmdline", "role"), TITLES)
def test_the_role_is_the_actor_class_in_ray_s_process_title(cmdline: bytes, role: str | None, tmp_path: Path) -> None:
    path = tmp_path / "cmdline"
    path.write_bytes(cmdline)
    assert ray_role(path) == role


def test_without_a_title_there_is_no_role(tmp_path: Path) -> None:
    assert ray_role(tmp_path / "absent") is None
    assert ray_role() is None


def test_the_guard_gives_the_result_and_keeps_errors_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_last", {})
    lines: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    def broken(*, text: str) -> None:
        raise ValueError(text)

    logger, handler = logging.getLogger("rlhfd"), Collecting()
    logger.addHandler(handler)
    try:
        assert guarded(max, 1, 2) == 2
        for _ in range(3):
            assert guarded(broken, text="oops") is None
    finally:
        logger.removeHandler(handler)
    assert lines == ["rlhfd: a hook failed and was ignored: ValueError: oops"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_guard_does_not_swallow_what_is_meant_for_the_program(error: type[BaseException]) -> None:
    def interrupted() -> None:
        raise error

    with pytest.raises(error):
        guarded(interrupted)


def test_ending_what_never_began_is_nothing() -> None:
    Process().end(None)
    Process().end(("generation", 1, 0.0))
