"""An actor that dies is told from a run that ends, on real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from rlhfd_daemon.deaths import Deaths, PidWatch
from rlhfd_daemon.observation import Observation
from rlhfd_daemon.runs import Peer, Runs
from support import wait_for
from wire import frame


class Processes:
    """Real processes that pose as the actors of one run."""

    def __init__(self) -> None:
        self.runs = Runs()
        self.pids = PidWatch()
        self.deaths = Deaths(self.runs, self.pids, lambda: "node7")
        self.popens: dict[str, subprocess.Popen[bytes]] = {}
        self.mono = 100.0

    def start(self, role: str, stream: str | None = None, boot: str = "b") -> list[str | None]:
        """The events that the start itself causes."""
        popen = self.popens[stream or role] = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        one = frame(1, role=role, stream=stream or role, boot=boot, kind="event", event="process_start", rank=0)
        self.runs.admit(one, Peer(0, popen.pid), 1.0)
        return [one.event for one in self.deaths.check(1.0, self.mono)]

    def kill(self, *names: str) -> None:
        """Returns once the kernel says so; the zombies are left unreaped, as Ray's would be for a moment."""
        pids = {self.popens[name].pid for name in names}
        for name in names:
            self.popens[name].kill()
        wait_for(lambda: pids <= self.pids.exited())

    def later(self, seconds: float) -> list[tuple[str | None, object]]:
        """What is said until ``seconds`` have passed, at four looks a second."""
        found: list[Observation] = []
        for _ in range(int(seconds * 4) + 1):
            found += self.deaths.check(self.mono, self.mono)
            for one in found:
                if one.event == "stream_end":
                    self.runs.end(str(one.fields["stream"]), str(one.fields["reason"]))
            self.mono += 0.25
        return [(one.event, one.fields["role"]) for one in found]

    def close(self) -> None:
        self.deaths.close()
        for popen in self.popens.values():
            popen.kill()
            assert popen.stdin is not None
            popen.stdin.close()
            popen.wait()


@pytest.fixture
def processes() -> Iterator[Processes]:
    opened = Processes()
    yield opened
    opened.close()


def test_an_actor_that_leaves_the_others_behind_has_died(processes: Processes) -> None:
    for role in ("PPOTrainer", "CriticModelActor"):
        processes.start(role)
    assert processes.later(1.0) == []
    processes.kill("CriticModelActor")
    assert processes.later(1.0) == [("stream_end", "CriticModelActor"), ("actor_death", "CriticModelActor")]
    assert processes.later(5.0) == []


def test_the_death_names_rank_pid_host_step_and_what_it_was_doing(processes: Processes) -> None:
    for role in ("PPOTrainer", "CriticModelActor"):
        processes.start(role)
    begun = frame(
        2, role="CriticModelActor", stream="CriticModelActor", kind="event", event="phase_begin", step=9, rank=0,
        fields={"phase": "ppo_train", "id": 1},
    )  # fmt: skip
    pid = processes.popens["CriticModelActor"].pid
    processes.runs.admit(begun, Peer(0, pid), 2.0)
    processes.kill("CriticModelActor")
    processes.deaths.check(3.0, 200.0)
    _, death = processes.deaths.check(4.0, 201.0)
    told = {name: death.fields[name] for name in ("rank", "pid", "host", "last_phase", "last_step")}
    assert told == {"rank": 0, "pid": pid, "host": "node7", "last_phase": "ppo_train", "last_step": 9}
    assert death.step == 9


def test_a_run_that_ends_all_at_once_is_no_death(processes: Processes) -> None:
    roles = ("PPOTrainer", "CriticModelActor", "PolicyModelActor")
    for role in roles:
        processes.start(role)
    processes.kill(*roles)
    assert sorted(processes.later(2.0)) == [("stream_end", role) for role in sorted(roles)]


def test_an_asynchronous_run_ends_without_goodbyes_its_coordinators_first(processes: Processes) -> None:
    for role in ("TrainingActor", "GenerateSamplesActor", "CriticModelActor", "PolicyModelActor"):
        processes.start(role)
    processes.kill("TrainingActor", "GenerateSamplesActor")
    assert {event for event, _ in processes.later(0.5)} == {"stream_end"}
    processes.kill("CriticModelActor", "PolicyModelActor")
    assert {event for event, _ in processes.later(0.5)} == {"stream_end"}


def test_a_coordinator_that_goes_in_the_middle_of_a_phase_has_died(processes: Processes) -> None:
    for role in ("PPOTrainer", "PolicyModelActor"):
        processes.start(role)
    begun = frame(
        2, role="PPOTrainer", stream="PPOTrainer", kind="event", event="phase_begin", rank=0,
        fields={"phase": "generation", "id": 1},
    )  # fmt: skip
    processes.runs.admit(begun, Peer(0, processes.popens["PPOTrainer"].pid), 2.0)
    processes.kill("PPOTrainer")
    assert ("actor_death", "PPOTrainer") in processes.later(0.5)


def test_without_a_coordinator_in_sight_any_survivor_counts(processes: Processes) -> None:
    for role in ("PolicyModelActor", "CriticModelActor"):
        processes.start(role)
    processes.kill("CriticModelActor")
    assert ("actor_death", "CriticModelActor") in processes.later(0.5)


def test_an_actor_that_said_goodbye_has_not_died(processes: Processes) -> None:
    for role in ("PPOTrainer", "CriticModelActor"):
        processes.start(role)
    processes.kill("CriticModelActor")
    processes.deaths.check(processes.mono, processes.mono)
    stop = frame(2, role="CriticModelActor", stream="CriticModelActor", kind="event", event="process_stop", rank=0)
    processes.runs.admit(stop, Peer(0, processes.popens["CriticModelActor"].pid), 2.0)
    assert processes.later(2.0) == []


def test_what_is_no_actor_just_ends(processes: Processes) -> None:
    for role in ("PPOTrainer", "judge"):
        processes.start(role)
    processes.kill("judge")
    assert processes.later(2.0) == [("stream_end", "judge")]


def test_an_actor_that_comes_back_is_told_once(processes: Processes) -> None:
    for role in ("PPOTrainer", "CriticModelActor"):
        processes.start(role)
    processes.kill("CriticModelActor")
    processes.later(1.0)
    assert processes.start("CriticModelActor", stream="another-run", boot="b2") == []
    assert processes.start("CriticModelActor", stream="second") == ["actor_restart"]
    assert processes.later(2.0) == []


def test_a_process_that_was_never_there_is_not_watched_and_nothing_leaks(processes: Processes) -> None:
    watch = PidWatch()
    assert not watch.watch(2**22 - 1)
    processes.start("PPOTrainer")
    pid = processes.popens["PPOTrainer"].pid
    assert watch.watch(pid)
    assert watch.watch(pid)
    processes.kill("PPOTrainer")
    assert watch.exited() == {pid}
    watch.forget(pid)
    watch.forget(pid)
    assert watch.exited() == set()
    watch.close()
