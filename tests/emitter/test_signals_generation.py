"""What is told of a generation, the step of each batch, and how many broadcasts old a sample is."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from experiences import maker, tensor
from rlhfd_emitter.process import Process
from rlhfd_emitter.signals import progress as progresses
from rlhfd_emitter.signals.experience import make_experience
from rlhfd_emitter.signals.generation import generate_samples
from rlhfd_emitter.signals.progress import GENERATED_AT, Progress, broadcast, generated_at, resumed, stamp


class Recorder:
    """In place of the emitter: metrics frames of generations (``made``) and of experiences."""

    muted = False

    def __init__(self) -> None:
        self.frames: list[tuple[int | None, dict[str, float]]] = []
        self.events: list[tuple[str, dict[str, object]]] = []

    def emit(self, step: int | None, metrics: dict[str, float]) -> None:
        if metrics:
            self.frames.append((step, metrics))

    def event(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))


@dataclass
class Sample:
    """OpenRLHF's Experience is such a dataclass."""

    action_mask: Any = None
    info: dict[str, Any] = field(default_factory=dict)


class Generator:
    """Draws prompts of two samples each; keeps what a step does not need in a buffer, as from 0.10.2 on."""

    def __init__(self, calls: list[tuple[int, int]], chunk: int, **args: Any) -> None:
        self.args = maker({"rollout.n_samples_per_prompt": 2, **args}).args
        self._calls, self._chunk = calls, chunk
        self._sample_buffer: list[Sample] = []

    def generate_samples(self, **generate_kwargs: Any) -> Any:
        prompts = 0
        if len(self._sample_buffer) < self._chunk and self._calls:
            prompts, accepted = self._calls.pop(0)
            self._sample_buffer += [Sample(tensor([[0, 1, 1, 1]])) for _ in range(accepted * 2)]
        taken, self._sample_buffer = self._sample_buffer[: self._chunk], self._sample_buffer[self._chunk :]
        return taken, 12345.0, prompts, not self._calls


@pytest.fixture
def process() -> Process:
    made = Process()
    made.role, made.emitter = "PPOTrainer", Recorder()  # type: ignore[assignment]
    return made


def recorder(process: Process) -> Recorder:
    assert isinstance(process.emitter, Recorder)
    return process.emitter


class Clock:
    """Unix seconds, as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_generation_is_counted_where_it_happens_and_not_where_a_buffer_serves(process: Process) -> None:
    generator = Generator([(4, 4), (4, 4)], chunk=4)
    generate = generate_samples(process, Generator.generate_samples)
    told = []
    for _ in range(4):
        recorder(process).frames.clear()
        generate(generator)
        told += [[(frame["rlhfd/generation/prompts"], frame["rlhfd/generation/samples"]) for _, frame in
                  recorder(process).frames]]  # fmt: skip
    assert told == [[(4, 8)], [], [(4, 8)], []]


def test_what_was_left_in_the_buffer_is_not_counted_again(process: Process) -> None:
    generator = Generator([(3, 3), (3, 3)], chunk=4)
    generate = generate_samples(process, Generator.generate_samples)
    assert [len(generate(generator)[0]) for _ in range(3)] == [4, 4, 4]
    assert [frame["rlhfd/generation/samples"] for _, frame in recorder(process).frames] == [6, 6]


def test_throughput_is_response_tokens_over_time(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([10.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    generate_samples(process, Generator.generate_samples)(Generator([(4, 4)], chunk=8))
    assert recorder(process).frames[0][1]["rlhfd/generation/tokens_per_second"] == 8 * 3 / 2


@pytest.mark.parametrize(
    ("args", "drawn", "accepted", "ratio"),
    [
        ({"algo.dynamic_filtering_enable": True}, 8, 6, 0.75),
        ({"dynamic_filtering": True}, 8, 8, 1.0),
        ({"algo.dynamic_filtering_enable": False}, 8, 8, None),
        ({}, 8, 8, None),
    ],
)
def test_the_filter_s_pass_ratio_is_of_prompts_whatever_openrlhf_says(
    args: dict[str, Any], drawn: int, accepted: int, ratio: float | None, process: Process
) -> None:
    generate_samples(process, Generator.generate_samples)(Generator([(drawn, accepted)], chunk=12, **args))
    assert recorder(process).frames[0][1].get("rlhfd/dynamic_filtering/pass_ratio") == ratio


def test_an_exhausted_generator_tells_nothing(process: Process) -> None:
    generate_samples(process, Generator.generate_samples)(Generator([(5, 0)], chunk=4))
    assert (recorder(process).frames, recorder(process).events) == ([], [])


def test_samples_of_versions_before_0_9_1_get_their_time_and_nothing_is_told(process: Process, clock: Clock) -> None:
    samples = [Sample(), Sample()]
    assert generate_samples(process, lambda self, prompts, labels: samples)(object(), [], []) is samples
    assert generated_at(samples) == [1000.0, 1000.0]
    assert recorder(process).frames == []


def test_each_sample_keeps_the_time_of_its_own_generation_through_the_buffer_and_a_pickle(
    process: Process, clock: Clock
) -> None:
    generator, generate = Generator([(3, 3), (3, 3)], chunk=4), generate_samples(process, Generator.generate_samples)
    times = []
    for _ in range(3):
        clock.now += 10
        samples, *_ = generate(generator)
        assert all(sample.info == {} for sample in samples)
        times.append(generated_at(pickle.loads(pickle.dumps(samples))))
    assert times == [[1010.0] * 4, [1010.0] * 2 + [1020.0] * 2, [1020.0] * 4]


STEPS: list[tuple[str, int | None, int | None, dict[str, Any], int | None]] = [
    # what happened, process.step, step of the checkpoint, arguments, step of the next batch
    ("a fresh run", None, 0, {}, 1),
    ("a run that goes on", None, 40, {"ckpt.load_enable": True}, 41),
    ("after the first step", 41, 40, {}, 42),
    ("before 0.9.1, fresh", None, None, {"load_checkpoint": False}, 1),
    ("before 0.9.1, perhaps from a checkpoint", None, None, {"load_checkpoint": True}, None),
    ("before 0.9.1, later", 7, None, {"load_checkpoint": True}, 8),
]


@pytest.mark.parametrize(
    ("step", "checkpoint", "args", "expected"), [row[1:] for row in STEPS], ids=[row[0] for row in STEPS]
)
def test_a_batch_belongs_to_the_step_under_which_it_will_be_logged(
    step: int | None, checkpoint: int | None, args: dict[str, Any], expected: int | None, process: Process
) -> None:
    process.step = step
    if checkpoint is not None:
        resumed(process, {"global_step": checkpoint, "episode": 0})
    one = SimpleNamespace(action_mask=tensor([[1]]), info={})
    make_experience(process, lambda self, rollout_samples: [one])(maker(args), [])
    generate_samples(process, Generator.generate_samples)(Generator([(1, 1)], chunk=2, **args))
    first, second = recorder(process).frames
    assert first[0] == expected
    following = expected if step is not None else expected and expected + 1  # as long as no step was logged
    assert second[0] == following


def test_without_a_hook_on_the_logs_steps_are_counted(process: Process) -> None:
    resumed(process, {"global_step": 5})
    one = SimpleNamespace(action_mask=tensor([[1]]), info={})
    for _ in range(3):
        make_experience(process, lambda self, rollout_samples: [one])(maker({}), [])
    assert [step for step, _ in recorder(process).frames] == [6, 7, 8]


@pytest.mark.parametrize("states", [None, "states", {}, {"global_step": None}])
def test_checkpoint_states_of_another_shape_say_nothing(states: Any, process: Process) -> None:
    resumed(process, states)
    assert process.shared(Progress).resumed is None


@pytest.mark.parametrize("known", [None, 6])
def test_the_generator_of_asynchronous_training_reports_at_the_trainer_s_last_step(
    known: int | None, process: Process
) -> None:
    process.role, process.step = "GenerateSamplesActor", known
    generate_samples(process, Generator.generate_samples)(Generator([(1, 1)], chunk=2))
    assert [step for step, _ in recorder(process).frames] == [known]


LAGS = [
    # when broadcasts began, when each sample's generation began (None: not known), mean and greatest lag
    ([], [5.0, 5.0], (0, 0)),
    ([1.0, 2.0], [5.0, 5.0], (0, 0)),
    ([6.0, 7.0], [5.0, 6.5], (1.5, 2)),
    ([1.0, 6.0], [None, 5.0], (1, 1)),
    ([1.0], [None, None], None),
    ([1.0], [], None),
]


@pytest.mark.parametrize(("began", "samples", "lag"), LAGS)
def test_the_lag_is_the_number_of_broadcasts_since_a_sample_s_generation(
    began: list[float], samples: list[float | None], lag: tuple[float, float] | None
) -> None:
    progress = Progress()
    progress.broadcasts.extend(began)
    found = progress.lags(samples)
    wanted = dict(zip(("rlhfd/policy_lag/mean", "rlhfd/policy_lag/max"), lag, strict=True)) if lag else {}
    assert found == wanted


def test_the_lag_is_unknown_where_broadcasts_are_not_seen_to_follow_training() -> None:
    progress = Progress()
    assert progress.lags([5.0])["rlhfd/policy_lag/max"] == 0  # nothing was trained yet
    progress.trained(1)
    assert progress.lags([5.0]) == {}


def test_only_broadcasts_that_succeed_count(process: Process, clock: Clock) -> None:
    def failing(self: Any) -> None:
        raise RuntimeError("NCCL")

    assert broadcast(process, lambda self: "done")(None) == "done"
    with pytest.raises(RuntimeError, match="NCCL"):
        broadcast(process, failing)(None)
    assert list(process.shared(Progress).broadcasts) == [1000.0]


def test_the_frame_of_a_step_says_how_old_its_samples_are(process: Process, clock: Clock) -> None:
    samples = [Sample(), Sample()]
    stamp(samples, 999.0)
    broadcast(process, lambda self: None)(None)
    make_experience(process, lambda self, rollout_samples: [])(maker({}), samples)
    ((step, values),) = recorder(process).frames
    assert (step, values["rlhfd/policy_lag/mean"], values["rlhfd/policy_lag/max"]) == (1, 1, 1)


def test_memory_of_broadcasts_is_bounded() -> None:
    progress = Progress()
    progress.broadcasts.extend(range(progresses.MAX_BROADCASTS + 10))
    assert len(progress.broadcasts) == progresses.MAX_BROADCASTS


def test_what_cannot_carry_a_time_is_left_as_it_is() -> None:
    samples: list[Any] = [1, "text", Sample()]
    stamp(samples, 5.0)
    assert generated_at(samples) == [None, None, 5.0]
    assert generated_at(None) == []
    assert GENERATED_AT.startswith("_")
