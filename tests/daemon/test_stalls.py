"""Which phase is called stalled and which process silent, when, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers import incident_table
from rlhfd_daemon.analyzers.incidents import Incidents
from rlhfd_daemon.config import IncidentsConfig, PhasesConfig
from rlhfd_daemon.observation import Observation
from rlhfd_daemon.process_state import ProcessState
from rlhfd_daemon.runs import Peer, Runs
from rlhfd_daemon.sample import Happening
from rlhfd_daemon.stalls import StallWatch, limit_seconds
from wire import frame

CONFIG = PhasesConfig(floor_seconds=10.0, factor=5.0, first_seconds=600.0, heartbeat_seconds=15.0)
PIDS = {"PPOTrainer": 100, "RolloutRayActor": 200, "PolicyModelActor": 300}


class World:
    """Runs whose clocks stand still until told; ``stopped`` are the processes that cannot run."""

    def __init__(self, config: PhasesConfig = CONFIG) -> None:
        self.runs = Runs()
        self.mono = 1000.0
        self.stopped: dict[int, ProcessState] = {}
        self.watch = StallWatch(config, self.runs, lambda pid: [self.stopped[pid]] if pid in self.stopped else [])
        self._seq = 0
        self.check()
        self.pass_time(20.0)  # the first heartbeat period after a start says nothing

    def event(self, role: str, event: str, rank: int | None = None, **fields: Any) -> None:
        self._seq += 1
        one = frame(
            self._seq, kind="event", event=event, role=role, stream=role, rank=rank, step=7, fields=fields,
            mono_ns=int(self.mono * 1e9),
        )  # fmt: skip
        self.runs.admit(one, Peer(0, PIDS[role]), self.mono)

    def run_phase(self, role: str, phase: str, seconds: float, number: int) -> None:
        self.event(role, "phase_begin", phase=phase, id=number)
        self.event(role, "phase_end", phase=phase, id=number, seconds=seconds)

    def pass_time(self, seconds: float) -> list[Observation]:
        """Everybody pings meanwhile."""
        found: list[Observation] = []
        for _ in range(int(seconds)):
            self.mono += 1.0
            for stream in self.runs.streams.values():
                stream.last_seen = self.mono
            found += self.check()
        return found

    def check(self) -> list[Observation]:
        """Unix and monotonic time are the same number here."""
        return self.watch.check(self.mono, self.mono)


def usual_generation(world: World, seconds: float = 1.0) -> None:
    for number in range(1, 4):
        for role in ("PPOTrainer", "RolloutRayActor"):
            world.run_phase(role, "generation", seconds, number)
    for role in ("PPOTrainer", "RolloutRayActor"):
        world.event(role, "phase_begin", phase="generation", id=4)


@pytest.mark.parametrize(
    ("durations", "limit"),
    [((), 600.0), ((1.0, 1.0), 600.0), ((0.1, 0.2, 0.1), 10.0), ((1.0, 40.0, 2.0), 200.0)],
)
def test_the_limit_follows_the_longest_of_late(durations: tuple[float, ...], limit: float) -> None:
    assert limit_seconds(durations, CONFIG) == limit


def test_a_stalled_phase_is_told_once_with_phase_role_pid_host_and_the_stopped_process() -> None:
    world = World()
    usual_generation(world)
    world.stopped[200] = ProcessState(pid=201, name="VLLM::EngineCore", state="T", parent=200)
    assert world.pass_time(10.0) == []
    (event,) = world.pass_time(10.0)
    assert event.event == "phase_stalled"
    assert (event.step, event.subject.run) == (7, "r")
    fields = event.fields
    assert (fields["phase"], fields["role"], fields["pid"], fields["usual_seconds"]) == (
        "generation", "RolloutRayActor", 200, 1.0,
    )  # fmt: skip
    assert fields["host"]
    assert fields["suspects"] == [{"pid": 201, "name": "VLLM::EngineCore", "state": "T"}]


def test_the_end_of_a_stalled_phase_is_told_once() -> None:
    world = World()
    usual_generation(world)
    world.pass_time(20.0)
    world.event("RolloutRayActor", "phase_end", phase="generation", id=4, seconds=20.0)
    world.event("PPOTrainer", "phase_end", phase="generation", id=4, seconds=20.0)
    (event,) = world.pass_time(3.0)
    assert (event.event, event.fields["id"], event.fields["role"]) == ("phase_resumed", 4, "RolloutRayActor")


def test_a_process_that_dies_within_a_stalled_phase_ends_the_stall() -> None:
    world = World()
    usual_generation(world)
    world.pass_time(20.0)
    world.runs.end("RolloutRayActor", "exited_without_bye")
    found = [(event.event, event.fields["role"]) for event in world.pass_time(3.0)]
    assert found == [("phase_resumed", "RolloutRayActor"), ("phase_stalled", "PPOTrainer")]


def test_the_coordinator_is_named_only_if_nobody_else_is_overdue() -> None:
    world = World()
    for number in range(1, 4):
        world.run_phase("PPOTrainer", "make_experience", 1.0, number)
    world.event("PPOTrainer", "phase_begin", phase="make_experience", id=9)
    (event,) = world.pass_time(15.0)
    assert event.fields["role"] == "PPOTrainer"


def test_the_coordinator_is_not_named_for_what_began_a_little_after_its_own_phase() -> None:
    world = World()
    for number in range(1, 4):
        world.run_phase("PPOTrainer", "generation", 1.0, number)
        world.run_phase("RolloutRayActor", "reward", 0.1, number)
    world.event("PPOTrainer", "phase_begin", phase="generation", id=4)
    world.pass_time(3.0)
    world.event("RolloutRayActor", "phase_begin", phase="reward", id=4)
    (event,) = world.pass_time(20.0)
    assert (event.fields["role"], event.fields["phase"]) == ("RolloutRayActor", "reward")


def test_a_phase_that_is_slow_as_usual_and_a_first_one_are_left_alone() -> None:
    world = World()
    usual_generation(world, seconds=30.0)
    world.event("PolicyModelActor", "phase_begin", phase="checkpoint", id=1)
    assert world.pass_time(140.0) == []


def test_a_process_that_exists_but_says_nothing_has_lost_its_heartbeat_and_gets_it_back() -> None:
    world = World()
    world.event("PolicyModelActor", "process_start", hostname="node7", rank=0)
    world.event("RolloutRayActor", "process_start", hostname="node7")
    world.stopped[300] = ProcessState(pid=300, name="ray::PolicyModelActor", state="D", parent=1)
    quiet = world.runs.streams["PolicyModelActor"]
    found: list[Observation] = []
    for _ in range(30):
        world.mono += 1.0
        world.runs.streams["RolloutRayActor"].last_seen = world.mono
        found += world.check()
    (lost,) = found
    assert (lost.event, lost.fields["role"], lost.fields["pid"], lost.fields["host"]) == (
        "heartbeat_lost", "PolicyModelActor", 300, "node7",
    )  # fmt: skip
    assert "waiting in the kernel" in str(lost.fields["suspects_text"])
    quiet.last_seen = world.mono
    assert [event.event for event in world.check()] == ["heartbeat_back"]


def test_a_daemon_that_was_stopped_itself_accuses_nobody() -> None:
    world = World()
    usual_generation(world)
    world.mono += 3600.0
    assert world.check() == []


def test_nothing_is_watched_where_it_is_switched_off() -> None:
    world = World(PhasesConfig(enabled=False))
    usual_generation(world)
    assert world.pass_time(30.0) == []


def test_the_alert_of_a_stall_names_all_of_it_and_ends_with_it() -> None:
    world = World()
    usual_generation(world)
    world.stopped[200] = ProcessState(pid=201, name="VLLM::EngineCore", state="T", parent=200)
    (stalled,) = world.pass_time(20.0)
    world.event("RolloutRayActor", "phase_end", phase="generation", id=4, seconds=20.0)
    world.event("PPOTrainer", "phase_end", phase="generation", id=4, seconds=20.0)
    (resumed,) = world.pass_time(2.0)
    incidents = Incidents(IncidentsConfig())
    began, ended = (
        list(incidents.happened(Happening("r", "b", "rlhfd", None, 7, str(one.event), one.fields, 1.0, 1)))
        for one in (stalled, resumed)
    )
    (finding,) = began
    assert (finding.rule, finding.metric, finding.active, finding.step) == (
        "stalled_phase", "phase/generation/seconds", True, 7,
    )  # fmt: skip
    for part in ("generation of RolloutRayActor", "pid 200", "VLLM::EngineCore (pid 201) is stopped"):
        assert part in finding.summary
    assert dict(finding.labels)["pid"] == "200"
    assert [one.active for one in ended] == [False]
    assert ended[0].labels == finding.labels


def test_a_failed_reward_call_is_an_alert_with_what_went_wrong() -> None:
    fields = {
        "call": "http", "error": "RuntimeError: no; last attempt: HTTP 500", "seconds": 5.04, "retries": 4,
        "failed": 3, "calls": 64, "pid": 200, "host": "node7",
    }  # fmt: skip
    event = Happening("r", "b", "RolloutRayActor", None, None, "reward_failed", fields, 1.0, 1)
    (finding,) = Incidents(IncidentsConfig()).happened(event)
    assert (finding.rule, finding.severity, finding.value) == ("reward_failed", Severity.CRITICAL, 3.0)
    assert finding.summary == (
        "a reward call (http) of pid 200 on node7 failed after 5.0 s: RuntimeError: no; last attempt: HTTP 500; "
        "3 of 64 calls so far"
    )
    assert dict(finding.labels) == {"role": "RolloutRayActor", "call": "http", "pid": "200", "host": "node7"}


def test_an_incident_without_an_end_ends_after_a_while() -> None:
    text = "{count} killed, {other}"
    row = incident_table.Incident("oom", "oom", "system", Severity.WARNING, "m", text, "buy memory", key=("who",))
    analyzer = Incidents(IncidentsConfig(clear_after_seconds=60.0))
    analyzer._begins = {"oom": row}
    event = Happening("r", "b", "rlhfd", None, None, "oom", {"count": 2, "who": "x"}, 100.0, 1)
    (finding,) = analyzer.happened(event)
    assert finding.summary == "2 killed, ?"
    assert list(analyzer.tick(159.0)) == []
    (over,) = analyzer.tick(160.0)
    assert (over.active, over.time) == (False, 160.0)
    assert list(analyzer.tick(1e9)) == []
    stranger = Happening("r", "b", "user", None, None, "oom", {"count": 2, "who": "x"}, 100.0, 1)
    assert list(analyzer.happened(stranger)) == []


def test_a_hook_that_switched_itself_off_is_an_alert_of_its_process_s_role_and_one_that_only_failed_is_none() -> None:
    analyzer = Incidents(IncidentsConfig())

    def failed(role: str, disabled: object) -> list[Finding]:
        fields = {"hook": "m.f", "error": "ValueError: oops", "failures": 3, "disabled": disabled}
        return list(analyzer.happened(Happening("r", "b", role, 0, 7, "hook_failed", fields, 1.0, 1)))

    assert failed("PPOTrainer", False) == failed("PPOTrainer", None) == failed("PPOTrainer", "yes") == []
    (finding,) = failed("PPOTrainer", True)
    assert (finding.rule, finding.severity, finding.active) == ("hook_off", Severity.WARNING, True)
    assert "hook m.f in PPOTrainer has switched itself off: ValueError: oops" in finding.summary
    assert finding.labels == (("role", "PPOTrainer"), ("hook", "m.f"))
