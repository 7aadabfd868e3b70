"""What is told when the kernel kills for want of memory: how many, where, and who vanished then."""

from __future__ import annotations

import pytest

from rlhfd_daemon.observation import Observation, Subject, node
from rlhfd_daemon.oom import NODE, OomWatch, Vanished

PPO, SFT = Subject("ppo", "b1"), Subject("sft", "b2")
GROUP = "/sys/fs/cgroup/job"
CORE = Vanished(PPO, "RolloutRayActor", 20, "VLLM::EngineCor", 9_000_000_000, True)
ACTOR = Vanished(PPO, "PolicyModelActor-0", 30, "ray::PolicyMode", 4_000_000_000, False)
OTHER = Vanished(SFT, "SFTTrainer-0", 40, "python", 1_000_000_000, False)
Look = tuple[dict[str, int], list[Vanished]]


def looks(*all_looks: Look) -> list[list[Observation]]:
    watch = OomWatch()
    return [watch.look(counts, gone, {}) for counts, gone in all_looks]


def pids(event: Observation) -> list[int]:
    victims = event.fields["victims"]
    assert isinstance(victims, list)
    return [victim["pid"] for victim in victims]


def test_a_kill_is_told_of_the_run_whose_process_vanished() -> None:
    *quiet, (event,) = looks(({NODE: 5}, []), ({NODE: 6}, [CORE]))
    assert quiet == [[]]
    assert (event.subject, event.event) == (PPO, "oom_kill")
    assert event.fields == {
        "count": 1,
        "scope": "node",
        "victims": [
            {
                "process": "RolloutRayActor", "pid": 20, "command": "VLLM::EngineCor", "rss_bytes": 9_000_000_000,
                "child": True,
            }
        ],
        "victims_text": "; vanished then: VLLM::EngineCor (pid 20, child of RolloutRayActor, 9.0 GB)",
        "critical": True,
    }  # fmt: skip


def test_of_all_that_vanished_as_many_of_the_largest_are_named_as_were_killed() -> None:
    """When Ray loses an actor the others follow within seconds."""
    (_, (one,)) = looks(({NODE: 0}, []), ({NODE: 1}, [ACTOR, CORE, OTHER]))
    assert (one.subject, pids(one)) == (PPO, [20])
    (_, (first, second)) = looks(({NODE: 0}, []), ({NODE: 3}, [ACTOR, CORE, OTHER]))
    assert [(event.subject, pids(event)) for event in (first, second)] == [(PPO, [20, 30]), (SFT, [40])]


@pytest.mark.parametrize(
    "some_looks",
    [
        (({NODE: 5}, [CORE]),),
        (({NODE: 5}, []), ({NODE: 5}, [CORE])),
        (({NODE: 5}, []), ({NODE: 3}, [CORE])),
        (({NODE: 5}, []), ({}, [CORE])),
        (({}, []), ({NODE: 5}, [CORE])),
        (({NODE: 5}, []), ({NODE: 5, GROUP: 9}, [CORE])),
    ],
    ids=["first look", "nobody was killed", "count went back", "no count", "count at last", "a new group"],
)
def test_a_process_that_just_ends_is_no_victim(some_looks: tuple[Look, ...]) -> None:
    assert [event for events in looks(*some_looks) for event in events] == []


def test_a_victim_may_take_a_moment_to_die() -> None:
    first, second, third = looks(({NODE: 5}, []), ({NODE: 6}, []), ({NODE: 6}, [CORE]))
    assert (first, second) == ([], [])
    assert pids(third[0]) == [20]


def test_a_kill_of_others_is_told_of_the_node_and_is_not_critical() -> None:
    *quiet, (event,) = looks(({NODE: 5}, []), ({NODE: 7}, []), ({NODE: 8}, []))
    assert quiet == [[], []]
    assert event.subject == node()
    assert event.fields == {"count": 3, "scope": "node", "victims": [], "victims_text": "", "critical": False}


def test_a_kill_in_a_run_s_own_group_is_the_run_s_even_if_nobody_known_vanished() -> None:
    members = {GROUP: frozenset({PPO})}
    counts = ({NODE: 5, GROUP: 1}, {NODE: 6, GROUP: 2}, {NODE: 6, GROUP: 2}, {NODE: 6, GROUP: 2})
    watch = OomWatch()
    # At the end nobody is left in the group.
    told = [watch.look(count, [], members if turn < 2 else {}) for turn, count in enumerate(counts)]
    assert [len(events) for events in told] == [0, 0, 1, 0]
    (event,) = told[2]
    assert (event.subject, event.fields["count"], event.fields["scope"]) == (PPO, 1, "cgroup")
    assert event.fields["critical"] is True
