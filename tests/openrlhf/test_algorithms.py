"""Every algorithm and topology of OpenRLHF's PPO command under observation: each process, phase and metric of it."""

from __future__ import annotations

import math

import pytest

from openrlhf.algorithms import DUMPED, STEPS, Outcome
from openrlhf.runs import VARIANTS
from openrlhf.test_signals_experience import arguments, check_experiences
from openrlhf.test_signals_training import check_training
from rlhfd_daemon.analyzers.incident_table import INCIDENTS
from rlhfd_daemon.interpret import Interpreter
from rlhfd_daemon.runs import DAEMON_ROLE

TRAINER = {"make_experience", "ppo_train", "broadcast"}
POLICY = {"forward", "append", "ppo_train", "broadcast", "save_model"}
SYNC = {
    "PPOTrainer": {"generation", *TRAINER},
    "PolicyModelActor": POLICY,
    "ReferenceModelActor": {"forward"},
    "RolloutRayActor": {"generation", "reward", "weight_sync"},
}
ASYNC = {
    "TrainingActor": TRAINER,
    "GenerateSamplesActor": {"generation"},
    "PolicyModelActor": POLICY,
    "ReferenceModelActor": {"forward"},
    "RolloutRayActor": {"generation", "reward", "weight_sync"},
}
CHECKPOINT = {"checkpoint"}
PHASES: dict[str, dict[str, set[str]]] = {
    "async": {
        **ASYNC,
        "GenerateSamplesActor": {"generation", "eval_generation", "eval_metrics"},
        "PolicyModelActor": POLICY | CHECKPOINT,
        "CriticModelActor": {"forward", "append", "ppo_train"} | CHECKPOINT,
    },
    "grpo": SYNC,
    "reinforce": {**SYNC, "PolicyModelActor": POLICY | CHECKPOINT},
    "packed": SYNC,
    "rloo": {**SYNC, "RewardModelActor": {"forward"}, "RolloutRayActor": {"generation", "weight_sync"}},
    "agent": {
        **ASYNC,
        "RolloutRayActor": {"generation", "reward", "weight_sync", "pause_generation", "resume_generation"},
    },
}
ASYNCHRONOUS = ("async", "agent")
QUEUE_SIZE = {"async": 1, "agent": 2}
TWO_RANKS = dict.fromkeys(DUMPED, ("PolicyModelActor", "ReferenceModelActor"))
ARGUMENTS: dict[str, dict[str, object]] = {
    "async": {"algo.advantage.estimator": "gae", "train.async_enable": True, "eval.steps": 2},
    "grpo": {"algo.advantage.estimator": "group_norm", "algo.kl.use_loss": True, "algo.kl.estimator": "k3"},
    "reinforce": {"algo.advantage.estimator": "reinforce", "actor.num_gpus_per_node": 2, "ds.zero_stage": 3},
    "packed": {"ds.packing_samples": True, "train.dynamic_batch_enable": True, "train.max_tokens_per_gpu": 128},
    "rloo": {"algo.advantage.estimator": "rloo"},
    "agent": {"algo.advantage.estimator": "reinforce_baseline", "train.partial_rollout_enable": True},
}

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all runs


@pytest.fixture(params=list(VARIANTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def outcome(algorithms: dict[str, Outcome], name: str) -> Outcome:
    return algorithms[name]


def test_the_run_logs_every_step(outcome: Outcome) -> None:
    assert [row["step"] for row in outcome.logged if "kind" not in row] == list(range(1, STEPS + 1))


def test_every_process_of_the_topology_reports_its_start_its_phases_and_its_end(outcome: Outcome, name: str) -> None:
    ranks = {(stream["role"], stream["rank"]) for stream in outcome.streams if stream["role"] != DAEMON_ROLE}
    assert {role for role, _ in ranks} == set(PHASES[name])
    two = TWO_RANKS.get(name, ())
    assert {role for role, rank in ranks if rank == 1} == set(two)
    for role, rank in ranks:
        frames = [frame for frame in outcome.frames if (frame.role, frame.rank) == (role, rank)]
        begun = [frame.fields["phase"] for frame in frames if frame.event == "phase_begin"]
        assert set(begun) == PHASES[name][role], role
        ended = [frame.fields["phase"] for frame in frames if frame.event == "phase_end"]
        assert sorted(begun) == sorted(ended)
        assert not [frame for frame in frames if "error" in frame.fields]
        assert frames[0].event == "process_start"
        # Ray kills the actors of asynchronous training at the end, before they can say goodbye.
        assert name in ASYNCHRONOUS or frames[-1].event == "process_stop", role


def test_every_metric_that_openrlhf_logged_arrives_with_the_same_value(outcome: Outcome) -> None:
    arrived: dict[int | None, dict[str, float]] = {}
    for frame in outcome.frames:
        if frame.kind == "metrics":
            arrived.setdefault(frame.step, {}).update(frame.metrics)
    compared = 0
    for row in outcome.logged:
        for key in row:
            if key.startswith(("train/", "eval/")):
                got, logged = arrived[row["step"]][key], row[key]
                assert got == logged or (math.isnan(got) and math.isnan(logged)), (row["step"], key)
                compared += 1
    assert compared >= STEPS * 25


def test_every_hook_of_an_imported_module_holds(outcome: Outcome) -> None:
    for frame in outcome.frames:
        if frame.event == "attached":
            assert frame.fields["bound"]
            assert (frame.fields["missing"], frame.fields["changed"]) == ([], {})


def test_the_metadata_names_the_trainer_and_its_arguments(outcome: Outcome, name: str) -> None:
    (start,) = [frame for frame in outcome.frames if frame.event == "run_start"]
    assert start.role == start.fields["trainer"] == ("TrainingActor" if name in ASYNCHRONOUS else "PPOTrainer")
    assert {key: start.fields["args"][key] for key in ARGUMENTS[name]} == ARGUMENTS[name]


def test_no_frame_is_missing_and_nothing_is_taken_for_a_fault(outcome: Outcome) -> None:
    for stream in (stream for stream in outcome.streams if stream["role"] != DAEMON_ROLE):
        seqs = [frame.seq for frame in outcome.frames if frame.stream == stream["stream"]]
        assert seqs == list(range(1, len(seqs) + 1)), stream["role"]
        assert stream["drops"] == {}
    faults = {incident.begin for incident in INCIDENTS}
    assert [frame.event for frame in outcome.frames if frame.event in faults] == []


def test_each_rank_sends_the_signals_of_its_share_and_the_gradient_norm_of_all(algorithms: dict[str, Outcome]) -> None:
    one = algorithms["reinforce"]
    shares = [check_training(one.frames, one.dump, "policy", rank) for rank in (0, 1)]
    for left, right in zip(*shares, strict=True):
        for what in ("mean", "max", "last"):  # DeepSpeed's norm is that of all ranks
            norm = f"rlhfd/policy/gradient_norm_{what}"
            assert left.metrics[norm] == pytest.approx(right.metrics[norm], rel=1e-4)
    of_share = [[frame.metrics["rlhfd/policy_kl/k3"] for frame in share] for share in shares]
    assert of_share[0] != of_share[1]


def test_dynamic_packed_micro_batches_are_counted_in_each_rank_and_compared_between_them(
    algorithms: dict[str, Outcome],
) -> None:
    one = algorithms["packed"]
    check_experiences(one.frames, one.dump, arguments(one.frames))
    shares = [check_training(one.frames, one.dump, "policy", rank) for rank in (0, 1)]
    for frame in (*shares[0], *shares[1]):
        metrics = {name.removeprefix("rlhfd/policy/"): value for name, value in frame.metrics.items()}
        assert (metrics["padding_ratio"], metrics["packing_efficiency_ratio"]) == (0, 1)
        assert metrics["micro_batches"] > metrics["optimizer_steps"] == 2
        assert 0 < metrics["micro_batch_fill_mean"] <= metrics["micro_batch_fill_max"] < 1.25
    interpreter = Interpreter()
    samples = [sample for frame in one.frames for sample in interpreter.samples(frame, frame.time_ns, 0)]
    found = {sample.step: sample.value for sample in samples if sample.name == "rlhfd/policy/rank_tokens_imbalance"}
    tokens = [[frame.metrics["rlhfd/policy/sequence_tokens"] for frame in share] for share in shares]
    assert found == pytest.approx(
        {step: 2 * max(both) / sum(both) for step, both in enumerate(zip(*tokens, strict=True), 1)}
    )
    assert all(1 <= value < 1.1 for value in found.values())  # OpenRLHF balances ranks


def test_no_hook_failed(outcome: Outcome) -> None:
    assert [frame.fields for frame in outcome.frames if frame.event == "hook_failed"] == []


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_asynchronous_generation_runs_beside_the_training_and_knows_the_trainer_s_step(outcome: Outcome) -> None:
    generated = outcome.phases("GenerateSamplesActor", "generation")
    trained = outcome.phases("TrainingActor", "ppo_train")
    both = [
        (made, used)
        for made in generated
        for used in trained
        if made[0].time_ns < used[1].time_ns and used[0].time_ns < made[1].time_ns
    ]
    assert both
    steps = [begin.step or 0 for begin, _ in generated]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1] <= STEPS


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_the_generator_s_step_is_the_number_of_broadcasts_before_it_and_lags_behind_the_trainer(
    outcome: Outcome,
) -> None:
    sent = [end.time_ns for _, end in outcome.phases("TrainingActor", "broadcast")]
    batches = [begin for begin, _ in outcome.phases("GenerateSamplesActor", "generation")][:STEPS]
    for begin in batches:
        # The token is older by one where the generator had to wait for a broadcast.
        assert 0 <= sum(time_ns < begin.time_ns for time_ns in sent) - (begin.step or 0) <= 1
    lags = [number - (begin.step or 0) for number, begin in enumerate(batches)]
    assert min(lags) == 0
    assert 1 <= max(lags) <= QUEUE_SIZE[str(outcome.frames[0].run)] + 1


def test_an_asynchronous_evaluation_comes_from_the_generator_at_the_step_that_openrlhf_logs(
    algorithms: dict[str, Outcome],
) -> None:
    frames = [frame for frame in algorithms["async"].frames if any(key.startswith("eval/") for key in frame.metrics)]
    logged = [row["step"] for row in algorithms["async"].logged if row.get("kind") == "eval"]
    assert {frame.role for frame in frames} == {"GenerateSamplesActor"}
    assert [frame.step for frame in frames] == logged
    assert logged


def test_what_an_agent_adds_to_the_logs_is_a_metric(algorithms: dict[str, Outcome]) -> None:
    turns = [frame.metrics["train/turns"] for frame in algorithms["agent"].frames if "train/turns" in frame.metrics]
    assert turns == [2.0] * STEPS
