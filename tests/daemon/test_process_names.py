"""How the processes of a run are called in metric names."""

from __future__ import annotations

from rlhfd_daemon.process_names import ProcessNames
from rlhfd_daemon.runs import Peer, Run, Runs
from wire import frame


class World:
    """A run whose processes come and go."""

    def __init__(self) -> None:
        self.runs = Runs()
        self.names = ProcessNames()

    def add(self, stream: str, role: str, rank: int | None, pid: int) -> None:
        self.runs.admit(frame(1, role=role, rank=rank, stream=stream), Peer(0, pid), 1.0)

    def run(self) -> Run:
        return self.runs.runs[("r", "b")]

    def named(self) -> dict[str, str]:
        return {stream: name for stream, (name, _) in self.names.of(self.run()).items()}


def test_rank_or_order_of_appearance_tells_processes_of_one_role_apart() -> None:
    world = World()
    world.add("a", "PolicyModelActor", 0, 10)
    world.add("b", "PolicyModelActor", 1, 11)
    world.add("c", "RolloutRayActor", None, 12)
    world.add("d", "RolloutRayActor", None, 13)
    world.add("e", "PolicyModelActor", 0, 14)
    assert world.named() == {
        "a": "PolicyModelActor-0", "b": "PolicyModelActor-1", "c": "RolloutRayActor", "d": "RolloutRayActor-1",
        "e": "PolicyModelActor-0-1",
    }  # fmt: skip


def test_a_name_is_kept_for_life_and_free_afterwards() -> None:
    world = World()
    world.add("c", "RolloutRayActor", None, 12)
    world.add("d", "RolloutRayActor", None, 13)
    assert world.named() == {"c": "RolloutRayActor", "d": "RolloutRayActor-1"}
    world.runs.end("c", "gone")
    assert world.named() == {"d": "RolloutRayActor-1"}
    world.add("f", "RolloutRayActor", None, 15)
    assert world.named() == {"d": "RolloutRayActor-1", "f": "RolloutRayActor"}


def test_only_processes_whose_pid_is_known_and_each_once() -> None:
    world = World()
    world.add("a", "PolicyModelActor", 0, 10)
    world.add("b", "judge", None, 10)
    world.add("c", "elsewhere", None, -1)
    world.add("d", "in another namespace", None, 0)
    assert world.named() == {"a": "PolicyModelActor-0"}


def test_a_role_is_cut_and_has_no_slashes() -> None:
    world = World()
    world.add("a", "my/judge/" + "x" * 119, 0, 10)
    assert world.named() == {"a": "my_judge_" + "x" * 55 + "-0"}


def test_a_run_that_is_over_is_forgotten() -> None:
    world = World()
    world.add("c", "RolloutRayActor", None, 12)
    world.named()
    world.names.keep([])
    world.runs.end("c", "gone")
    world.add("d", "RolloutRayActor", None, 13)
    world.names.keep([world.run()])
    assert world.named() == {"d": "RolloutRayActor"}
