"""Ray on a node made of files: whose actors they are, what they are called, how busy they are, and the store."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from procdir import add_process
from rlhfd_daemon.config_host import RayConfig
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.observation import Subject, node
from rlhfd_daemon.pollers.ray import LOOK_SECONDS, RayPoller
from rlhfd_daemon.runs import Peer, Runs
from wire import frame

SAMPLE_SECONDS = 1.0
RUN = Subject("r", "b")
STATE = "Node ID: {node}\n- pinned objects size: {used}\n- num bytes currently spilled: {spilled}\n"


class World:
    """A node with raylets; a poll happens ``SAMPLE_SECONDS`` after the one before, a report every five."""

    def __init__(self, folder: Path, unobserved_after_seconds: float = 0.0) -> None:
        self.folder, self.proc, self.mono = folder, folder / "proc", 0.0
        self.runs = Runs()
        add_process(self.proc, 1, 0, name="init")
        config = RayConfig(
            interval_seconds=5.0,
            sample_seconds=SAMPLE_SECONDS,
            unobserved_after_seconds=unobserved_after_seconds,
        )
        self.poller = RayPoller(config, self.runs, proc=self.proc, mono=lambda: self.mono, patience_seconds=20.0)

    def raylet(self, pid: int, capacity: int = 1000) -> Path:
        """The folder of its logs."""
        logs = self.folder / f"session-{pid}" / "logs"
        logs.mkdir(parents=True)
        options = ("raylet", f"--node_id=n{pid}", f"--log_dir={logs}", f"--object_store_memory={capacity}")
        (add_process(self.proc, pid, name="raylet") / "cmdline").write_text(
            "\0".join((*options, f"--session_dir={logs.parent}"))
        )
        return logs

    def title(self, pid: int, title: str, parent: int = 10) -> None:
        (add_process(self.proc, pid, parent, name=title[:15]) / "cmdline").write_text(title + "\0" * 100)

    def emits(self, pid: int, role: str, rank: int | None = None, run: str = "r") -> None:
        self.runs.admit(frame(1, run=run, role=role, rank=rank, stream=f"s{pid}"), Peer(0, pid), 1.0)

    def poll(self) -> dict[Subject, dict[str, float]]:
        self.mono += SAMPLE_SECONDS
        found: dict[Subject, dict[str, float]] = {}
        for one in asyncio.run(self.poller.poll(0.0)):
            found.setdefault(one.subject, {}).update(one.metrics)
        return found

    def report(self) -> dict[Subject, dict[str, float]]:
        """The next one."""
        return next(found for found in iter(self.poll, None) if found)

    def names(self, subject: Subject = RUN) -> set[str]:
        """Who is in the next report."""
        found = self.report().get(subject, {})
        return {name.split("/")[1] for name in found if name.endswith("busy_ratio")}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    asyncio.run(one.poller.stop())


def test_a_node_without_ray_says_nothing(world: World) -> None:
    assert [world.poll() for _ in range(12)] == [{}] * 12


def test_busy_share_and_time_of_the_method_are_of_the_samples(world: World) -> None:
    world.raylet(10)
    world.emits(11, "PolicyModelActor", 0)
    world.title(11, "ray::PolicyModelActor")
    world.poll()
    world.poll()
    world.title(11, "ray::PolicyModelActor.fit")
    found = [world.poll() for _ in range(3)]
    assert found[:2] == [{}, {}]
    assert found[2][RUN]["ray/PolicyModelActor-0/busy_ratio"] == 0.6
    assert found[2][RUN]["ray/PolicyModelActor-0/method_seconds"] == 2.0
    assert world.poller.methods() == {11: "fit"}
    world.title(11, "ray::PolicyModelActor")
    idle = world.report()[RUN]
    assert (idle["ray/PolicyModelActor-0/busy_ratio"], idle["ray/PolicyModelActor-0/method_seconds"]) == (0.0, 0.0)
    assert world.poller.methods() == {}


def test_only_actors_count_and_not_what_they_have_forked(world: World) -> None:
    world.raylet(10)
    world.title(11, "ray::IDLE")
    world.title(12, "ray::DashboardAgent")
    world.title(13, "ray::A.fit")
    world.title(14, "ray::A.fit", parent=13)  # a data loader's worker, say
    world.title(15, "bash\0-c\0default_worker.py")
    world.title(16, "ray::Below", parent=15)
    world.title(17, "ray::Elsewhere", parent=1)
    world.raylet(20)
    world.title(21, "ray::B", parent=20)
    assert world.names(node()) == {"A", "Below", "B"}


def test_a_spare_worker_that_becomes_an_actor_is_one_and_a_dead_one_none(world: World) -> None:
    world.raylet(10)
    world.title(11, "ray::IDLE")
    world.title(12, "ray::B")
    assert world.names(node()) == {"B"}
    world.title(11, "ray::A")
    shutil.rmtree(world.proc / "12")
    for _ in range(int(LOOK_SECONDS / SAMPLE_SECONDS)):
        world.poll()
    assert world.names(node()) == {"A"}


def test_actors_without_an_emitter_are_of_the_run_whose_session_they_share(world: World) -> None:
    world.raylet(10)
    world.emits(11, "PolicyModelActor", 0)
    world.title(11, "ray::PolicyModelActor")
    world.title(12, "ray::VLLMLock")
    world.title(13, "ray::VLLMLock")
    world.raylet(20)
    world.title(21, "ray::Other", parent=20)
    assert world.names() == {"PolicyModelActor-0", "VLLMLock", "VLLMLock-1"}
    assert world.names(node()) == {"Other"}
    assert [(one.process, one.pid) for one in world.poller.unobserved] == [
        ("VLLMLock", 12), ("VLLMLock-1", 13), ("Other", 21),
    ]  # fmt: skip


def test_in_a_session_of_two_runs_they_are_the_nodes(world: World) -> None:
    world.raylet(10)
    for pid, run in ((11, "r"), (12, "other")):
        world.emits(pid, "PolicyModelActor", 0, run=run)
        world.title(pid, "ray::PolicyModelActor")
    world.title(13, "ray::VLLMLock")
    found = world.report()
    assert found[RUN].keys() == found[Subject("other", "b")].keys()
    assert {"ray/VLLMLock/busy_ratio", "ray/object_store_capacity_bytes"} <= found[node()].keys()


def test_a_name_is_kept_for_life_but_gives_way_to_a_process_with_an_emitter(world: World) -> None:
    world.raylet(10)
    world.emits(11, "PPOTrainer")
    for pid, title in ((11, "ray::PPOTrainer"), (12, "ray::A"), (13, "ray::A")):
        world.title(pid, title)
    assert world.names() == {"PPOTrainer", "A", "A-1"}
    shutil.rmtree(world.proc / "12")
    assert world.names() == {"PPOTrainer", "A-1"}
    world.title(14, "ray::A")
    world.emits(14, "A", 1)  # A-1, too
    world.report()
    assert world.names() == {"PPOTrainer", "A-1", "A"}
    assert [one.process for one in world.poller.unobserved] == ["A"]


def test_a_new_actor_is_given_time_for_its_emitter_to_speak(tmp_path: Path) -> None:
    world = World(tmp_path, unobserved_after_seconds=7.0)
    world.raylet(10)
    world.title(11, "ray::PolicyModelActor")
    world.title(12, "ray::VLLMLock")
    assert world.names(node()) == set()
    world.emits(11, "PolicyModelActor", 0)
    assert world.names() == {"PolicyModelActor-0", "VLLMLock"}
    asyncio.run(world.poller.stop())


def test_the_stores_of_one_subject_count_together_and_what_is_not_said_is_unknown(world: World) -> None:
    first, second = world.raylet(10), world.raylet(20, capacity=500)
    first.joinpath("debug_state.txt").write_text(STATE.format(node="n10", used=7, spilled=3))
    found = world.report()[node()]
    assert found == {"ray/object_store_capacity_bytes": 1500}
    second.joinpath("debug_state.txt").write_text(STATE.format(node="n20", used=2, spilled=1))
    expected = {"capacity_bytes": 1500, "used_bytes": 9, "spilled_bytes": 4}
    assert world.report()[node()] == {f"ray/object_store_{name}": value for name, value in expected.items()}
    second.joinpath("debug_state.txt").write_text(STATE.format(node="n10", used=2, spilled=1))
    assert world.report()[node()] == {"ray/object_store_capacity_bytes": 1500}


def test_a_store_in_another_container_is_read_by_the_raylets_own_root(world: World) -> None:
    logs = world.raylet(10)
    inside = Path(f"{world.proc}/10/root{logs}")
    inside.mkdir(parents=True)
    (inside / "debug_state.txt").write_text(STATE.format(node="n10", used=7, spilled=3))
    assert world.report()[node()]["ray/object_store_used_bytes"] == 7


def test_many_actors_are_told_in_several_observations_and_every_metric_is_in_the_table(world: World) -> None:
    world.raylet(10).joinpath("debug_state.txt").write_text(STATE.format(node="n10", used=7, spilled=3))
    for pid in range(100, 500):
        world.title(pid, "ray::A")
    for _ in range(4):
        world.poll()
    world.mono += SAMPLE_SECONDS
    found = list(asyncio.run(world.poller.poll(0.0)))
    assert [len(one.metrics) for one in found] == [490, 313]
    assert all(lookup(name) is not None for one in found for name in one.metrics)
