"""Where a run's checkpoints are to be looked for, and what its processes say of saving them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkpoint_trees import deepspeed, export, look, under, write
from procdir import add_process
from rlhfd_daemon.checkpoints.completeness import Known
from rlhfd_daemon.checkpoints.layout import Description
from rlhfd_daemon.checkpoints.roots import MAX_ROOTS, MAX_SAVES, Root, Saves, known_of, roots_of
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.runs import Peer, Run, Runs
from wire import frame

DOTTED = {
    "ckpt.path": "/ckpt/ppo", "ckpt.output_dir": "/out/model", "ckpt.save_steps": 10, "ckpt.max_num": 3,
    "ckpt.save_hf": True, "critic.num_nodes": 1, "ds.zero_stage": 3,
}  # fmt: skip
FLAT = {
    "ckpt_path": "/ckpt/ppo", "save_path": "/out/model", "save_steps": 10, "max_ckpt_num": 3, "save_hf_ckpt": True,
    "critic_pretrain": "x", "zero_stage": 3,
}  # fmt: skip
ACTOR, CRITIC = "PolicyModelActor", "CriticModelActor"


def started(args: dict[str, object], *processes: tuple[str, int, dict[str, object]]) -> Runs:
    """A run with these arguments and processes (role, rank, what it said at its start)."""
    runs = Runs()
    for number, (role, rank, said) in enumerate(processes or (("SFTTrainer", 0, {}),)):
        stream = f"s{number}"
        for seq, (event, fields) in enumerate((("process_start", said), ("run_start", {"args": args})), 1):
            told = frame(seq, role=role, rank=rank, stream=stream, kind="event", event=event, fields=fields)
            runs.admit(told, Peer(0, 100 + number), 0.0)
    return runs


def only(runs: Runs) -> Run:
    (run,) = runs.runs.values()
    return run


@pytest.mark.parametrize("args", [DOTTED, FLAT], ids=["dotted", "flat"])
def test_a_ppo_run_has_three_roots(args: dict[str, object]) -> None:
    runs = started(args)
    run = only(runs)
    settings: dict[str, Any] = {"run": run.run, "boot": run.boot, "save_steps": 10, "kept": 3, "exports": True}
    assert roots_of(runs.runs.values()) == [
        Root("/ckpt/ppo", role=None, **settings),
        Root("/out/model", role="actor", **settings),
        Root("/out/model_critic", role="critic", **settings),
    ]


def test_other_trainers_have_no_critic() -> None:
    args = {"ckpt.path": "/ckpt/sft", "ckpt.output_dir": "/out", "ckpt.save_steps": float("inf")}
    roots = roots_of(started(args).runs.values())
    assert [(root.path, root.role, root.save_steps) for root in roots] == [
        ("/ckpt/sft", None, None),
        ("/out", None, None),
    ]


def test_a_relative_path_is_relative_to_the_process_that_writes(tmp_path: Path) -> None:
    args: dict[str, object] = {"ckpt.path": "./ckpt/../ckpt/sft"}
    assert (
        roots_of(started(args, ("SFTTrainer", 0, {"cwd": "/home/user"})).runs.values())[0].path == "/home/user/ckpt/sft"
    )
    assert roots_of(started(args).runs.values(), proc=tmp_path) == []
    add_process(tmp_path, 100)
    (tmp_path / "100" / "cwd").symlink_to("/home/other")
    assert roots_of(started(args).runs.values(), proc=tmp_path)[0].path == "/home/other/ckpt/sft"


def test_configured_paths_come_with_those_of_runs_and_none_twice() -> None:
    runs = started({"ckpt.path": "/ckpt/sft"})
    roots = roots_of(runs.runs.values(), ["/mnt/all", "/ckpt/sft/"])
    assert [(root.path, root.run != "") for root in roots] == [("/mnt/all", False), ("/ckpt/sft", True)]
    assert len(roots_of([], [f"/mnt/{number}" for number in range(1000)])) == MAX_ROOTS
    runs.end("s0", "process_stop")
    assert [root.path for root in roots_of(runs.runs.values())] == []


def test_what_is_no_path_or_number_is_left_out() -> None:
    args: dict[str, object] = {"ckpt.path": 5, "ckpt.output_dir": "", "ckpt.save_steps": "often", "ckpt.save_hf": 1}
    assert roots_of(started(args).runs.values()) == []
    (root,) = roots_of(started({**args, "ckpt.path": "/x", "ckpt.max_num": True}).runs.values())
    assert (root.save_steps, root.kept, root.exports) == (None, None, None)


def tag(tmp_path: Path, role: str = "_actor") -> Description:
    (found,) = look(write(tmp_path / role, under(f"{role}/global_step1", deepspeed(2, 2)))).checkpoints
    return found


def phase(event: str, stream: str, number: int, role: str = ACTOR, **fields: object) -> Frame:
    said = {"phase": "checkpoint", "id": number, **fields}
    return frame(9, role=role, stream=stream, kind="event", event=event, fields=said)


def test_the_phase_of_all_ranks_says_since_when_and_until_when(tmp_path: Path) -> None:
    runs = started(DOTTED, (ACTOR, 0, {"world_size": 2}), (ACTOR, 1, {"world_size": 2}), (CRITIC, 0, {"world_size": 1}))
    run, saves, found = only(runs), Saves(), tag(tmp_path)
    base = Known(world_size=2, local_ranks=frozenset({0, 1}), alive=True, zero_stage=3)
    assert known_of(run, found, saves) == base
    saves.observe(phase("phase_begin", "s0", 1), 100.0)
    saves.observe(phase("phase_begin", "s1", 1), 101.0)
    assert known_of(run, found, saves).saving_since == 100.0
    saves.observe(phase("phase_end", "s0", 1), 105.0)
    assert known_of(run, found, saves).saving_since == 101.0
    saves.observe(phase("phase_end", "s1", 1, error="OSError: No space left on device"), 106.0)
    said = known_of(run, found, saves)
    assert (said.saving_since, said.saved_at, said.failed) == (None, 106.0, "OSError: No space left on device")
    saves.observe(phase("phase_begin", "s0", 2), 200.0)
    saves.observe(phase("phase_end", "s0", 2), 201.0)
    assert known_of(run, found, saves).failed is None
    critic = known_of(run, tag(tmp_path, "_critic"), saves)
    assert (critic.saved_at, critic.world_size) == (None, 1)


def test_an_export_is_saved_in_a_phase_of_its_own(tmp_path: Path) -> None:
    (found,) = look(write(tmp_path, under("global_step1_hf", export()))).checkpoints
    run, saves = only(started({}, ("SFTTrainer", 0, {}))), Saves()
    saves.observe(phase("phase_begin", "s0", 1, "SFTTrainer"), 100.0)
    assert known_of(run, found, saves).saving_since is None
    saves.observe(phase("phase_begin", "s0", 2, "SFTTrainer", phase="save_model"), 101.0)
    assert known_of(run, found, saves).saving_since == 101.0


def test_a_process_that_ends_while_it_saves_has_failed_to(tmp_path: Path) -> None:
    runs = started({}, (ACTOR, 0, {"world_size": 1}))
    run, saves, found = only(runs), Saves(), tag(tmp_path)
    saves.observe(phase("phase_begin", "s0", 1), 100.0)
    saves.ended("s0")
    runs.end("s0", "heartbeat_lost")
    said = known_of(run, found, saves)
    assert (said.saving_since, said.failed, said.alive) == (None, "the process ended while it saved", False)
    saves.observe(phase("phase_begin", "s0", 2), 200.0)
    saves.observe(frame(10, role=ACTOR, stream="s0", kind="event", event="process_stop"), 201.0)
    assert known_of(run, found, saves).saving_since is None


def test_ranks_of_other_hosts_are_not_local(tmp_path: Path) -> None:
    ranks: list[tuple[str, int, dict[str, object]]] = [
        (ACTOR, rank, {"world_size": 4, "host": "here" if rank < 2 else "there"}) for rank in range(4)
    ]
    run = only(started({}, *ranks))
    assert known_of(run, tag(tmp_path), Saves(), host="here").local_ranks == frozenset({0, 1})


def test_of_a_run_that_is_not_known_nothing_is(tmp_path: Path) -> None:
    assert known_of(None, tag(tmp_path), Saves()) == Known()


def test_what_is_remembered_of_saving_is_bounded() -> None:
    saves = Saves()
    for number in range(MAX_SAVES + 50):
        saves.observe(phase("phase_begin", f"s{number}", 1, role=f"role{number}"), 1.0)
    assert len(saves._saves) == MAX_SAVES
