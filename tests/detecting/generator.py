"""Made-up runs that no threshold was chosen on: noise, drifts and logging habits of many kinds, under OpenRLHF's names.

They are held out: use them to judge, never to tune. Whoever changes a detector because of what these runs show has to
say so in docs/detection.md and draw new ones (another :data:`SEED`). The same seed gives the same runs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from rlhfd_daemon.traces import Row

__all__ = ["SEED", "Course", "Habits", "Values", "habits", "rows"]

SEED = 71_993
T0 = 1_790_000_000.0
WARM_UP = 10
EVAL_EVERY = 25
Values = dict[str, float]
Noise = Callable[[], float]  # of unit scale
Fault = Callable[["Course", int, Values], None]  # changes the values of one step in place


@dataclass(frozen=True)
class Habits:
    """What makes one run unlike another. ``scatter`` multiplies all noise: small batches scatter more."""

    algorithm: str  # ppo, grpo, reinforce
    noise: str  # gauss, ar1, t3
    steps: int
    scatter: float
    decimals: int | None
    missing: float  # share of the steps of which only half is logged
    drift: float  # amplitude of a slow wave, in units of the noise
    is_verified: bool  # rewards are 0 or 1
    turn: float | None  # share of the run after which the plateau becomes a slow slope
    spikes: float  # share of steps with a single spike in a gradient norm or a time


def habits(draw: random.Random, steps: int, algorithm: str | None = None) -> Habits:
    """A run's habits, drawn."""
    return Habits(
        algorithm=algorithm or draw.choice(("ppo", "grpo", "reinforce")),
        noise=draw.choice(("gauss", "ar1", "t3")),
        steps=steps,
        scatter=draw.choice((0.5, 1.0, 2.0)),
        decimals=draw.choice((None, None, 3)),
        missing=draw.choice((0.0, 0.0, 0.02)),
        drift=draw.choice((0.0, 0.0, 1.5)),
        is_verified=draw.random() < 0.4,
        turn=draw.choice((None, None, 0.6)),
        spikes=draw.choice((0.0, 0.004, 0.01)),
    )


@dataclass
class Course:
    """The healthy curves of one run. ``reward_scale``: standard deviation of the mean reward from step to step."""

    habits: Habits
    draw: random.Random
    parts: dict[str, float] = field(default_factory=dict)
    reward_scale: float = 0.05
    _noises: dict[str, Noise] = field(default_factory=dict)

    def __post_init__(self) -> None:
        draw, steps = self.draw, self.habits.steps
        self.reward_scale = draw.uniform(0.02, 0.06) * self.habits.scatter
        self.parts = {
            "tau": steps * draw.uniform(0.1, 0.5),
            "start": draw.uniform(0.05, 0.3) if self.habits.is_verified else draw.uniform(-3, 3),
            "gain": draw.uniform(0.2, 0.5) if self.habits.is_verified else draw.uniform(0.5, 3),
            "kl": draw.uniform(0.02, 0.4),
            "kl_power": draw.uniform(0.5, 1.1),
            "entropy": draw.uniform(0.3, 3.0),
            "entropy_floor": draw.uniform(0.3, 0.8),
            "length": draw.uniform(120, 900),
            "longer": draw.uniform(-0.25, 0.6),
            "cap": draw.uniform(2.2, 4.0),  # in lengths at the start
            "gradient": 10 ** draw.uniform(-1, 0.7),
            "clip": draw.uniform(0.005, 0.06),
            "mismatch": 10 ** draw.uniform(-4, -2.3),
            "lr": 10 ** draw.uniform(-6.5, -5),
            "token_seconds": 10 ** draw.uniform(-2.5, -1),
            "first_step": draw.uniform(2, 8),
            "phase": draw.uniform(0, 2 * math.pi),
        }

    def noise(self, name: str) -> float:
        """The next value of this metric's own noise, of unit scale, slow wave included."""
        if name not in self._noises:
            self._noises[name] = _NOISES[self.habits.noise](self.draw)
        return self._noises[name]()

    def wave(self, step: int) -> float:
        return self.habits.drift * math.sin(2 * math.pi * step / 170 + self.parts["phase"])

    def around(self, name: str, middle: float, scatter: float) -> float:
        """``middle`` with noise that grows with it."""
        return middle * math.exp(min(3.0, max(-3.0, scatter * self.habits.scatter * self.noise(name))))

    def values(self, step: int) -> Values:
        """What is logged at a step, before any fault."""
        found: Values = {}
        for curve in (_reward, _policy, _length, _critic, _schedule):
            curve(self, step, found)
        return found


def rows(course: Course, fault: Fault | None = None) -> Iterator[Row]:
    """The run, step by step, as it would be read from a log."""
    made, now = course.habits, T0
    for step in range(1, made.steps + 1):
        values = course.values(step)
        if fault is not None:
            fault(course, step, values)
        _phases(course, step, values)
        now += values["train/timing/step_total"]
        kept = values if course.draw.random() >= made.missing else _some(course.draw, values)
        logged = {key: _rounded(key, value, made.decimals) for key, value in kept.items()}
        evaluated = {key: logged.pop(key) for key in list(logged) if key.startswith("eval/")}
        yield Row(step, now, logged)
        if evaluated and step % EVAL_EVERY == 0:
            yield Row(step, now, evaluated)


def _reward(course: Course, step: int, found: Values) -> None:
    made, parts = course.habits, course.parts
    level = parts["start"] + parts["gain"] * (1 - math.exp(-step / parts["tau"]))
    if made.turn is not None and step > made.turn * made.steps:
        level += 0.3 * parts["gain"] * (step / made.steps - made.turn)
    early = 2.0 if step <= WARM_UP else 1.0
    reward = level + course.reward_scale * (early * course.noise("reward") + course.wave(step))
    if made.is_verified:
        reward = min(1.0, max(0.0, round(reward * 512) / 512))
        spread = math.sqrt(max(0.0, reward * (1 - reward)))
    else:
        spread = course.around("reward_std", 0.9, 0.06)
    found["train/reward"] = found["train/rollout/reward_mean"] = reward
    found["train/return"] = reward - 0.01
    found["train/rollout/reward_std"] = spread
    found["train/group_reward_std"] = round(course.around("group", 0.6 * spread, 0.08) * 64) / 64
    found["train/rollout/num_samples"] = 512.0
    found["eval/eval_default_pass1"] = max(0.0, 0.3 + 0.1 * level + 0.02 * course.noise("eval"))


def _policy(course: Course, step: int, found: Values) -> None:
    made, parts = course.habits, course.parts
    part = step / made.steps
    settling = math.exp(-step / 4)
    found["train/kl"] = course.around("kl", parts["kl"] * part ** parts["kl_power"] + 1e-4, 0.08)
    found["train/ppo_kl"] = course.around("ppo_kl", 4e-4, 0.3)
    found["train/vllm_kl"] = course.around("vllm_kl", parts["mismatch"], 0.1)
    floor = parts["entropy_floor"]
    falling = floor + (1 - floor) * math.exp(-step / (1.5 * parts["tau"]))
    found["train/entropy_loss"] = course.around("entropy", parts["entropy"] * falling, 0.03)
    found["train/ppo_clip_ratio"] = min(1.0, course.around("clip", parts["clip"] * (1 + 0.3 * part), 0.15))
    found["train/policy_loss"] = 0.02 * made.scatter * course.noise("policy_loss")
    gradient = course.around("gradient", parts["gradient"] * (1 + 3 * settling), 0.15)
    found["train/actor_grad_norm"] = gradient * _spike(course)


def _length(course: Course, step: int, found: Values) -> None:
    parts = course.parts
    length = parts["length"] * (1 + parts["longer"] * step / course.habits.steps)
    length = course.around("length", length, 0.03) * math.exp(0.02 * course.wave(step))
    found["train/response_length"] = found["train/rollout/response_length_mean"] = length
    found["train/total_length"] = length + 150
    share = length / (parts["cap"] * parts["length"])
    found["train/rollout/truncated_rate"] = round(512 * min(1.0, share**6)) / 512


def _critic(course: Course, step: int, found: Values) -> None:
    if course.habits.algorithm != "ppo":
        return
    learning = math.exp(-step / 25)
    found["train/critic_loss"] = course.around("critic_loss", 0.02 + 0.3 * learning, 0.15)
    found["train/critic_grad_norm"] = course.around("critic_gradient", 0.8 + 2 * learning, 0.2) * _spike(course)
    found["train/values"] = found["train/reward"] * (1 - learning) + 0.02 * course.noise("values")
    if course.parts["phase"] > math.pi:
        found["train/advantages_mean"] = 0.01 * course.noise("advantage")
        found["train/advantages_std"] = course.around("advantage_std", 1.0, 0.03)


def _schedule(course: Course, step: int, found: Values) -> None:
    part = step / course.habits.steps
    cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * part))
    found["train/actor_lr"] = course.parts["lr"] * min(1.0, part / 0.03) * cosine
    if course.habits.algorithm == "ppo":
        found["train/critic_lr"] = 10 * found["train/actor_lr"]


def _phases(course: Course, step: int, found: Values) -> None:
    """The phases' seconds; generation takes as long as its answers are, times what a fault has put there."""
    slow = course.parts["first_step"] if step == 1 else 1.0
    seconds = course.parts["token_seconds"] * found["train/response_length"]
    slower = found.pop("slower", 1.0)
    generation = course.around("generation", seconds, 0.03) * slow * slower * _spike(course)
    experience = course.around("experience", 0.3 * seconds, 0.04) * slow
    training = course.around("training", 0.5 * seconds, 0.03) * slow
    broadcast = course.around("broadcast", 1.5, 0.1) * slow
    found["train/timing/generation"] = generation
    found["train/timing/make_experience"] = experience
    found["train/timing/ppo_train"] = training
    found["train/timing/broadcast"] = broadcast
    found["train/timing/step_total"] = generation + experience + training + broadcast


def _spike(course: Course) -> float:
    return course.draw.uniform(2, 6) if course.draw.random() < course.habits.spikes else 1.0


def _some(draw: random.Random, values: Values) -> Values:
    return {key: value for key, value in values.items() if draw.random() < 0.5}


def _rounded(key: str, value: float, decimals: int | None) -> float:
    return value if decimals is None or key.endswith("_lr") else round(value, decimals)


def _gauss(draw: random.Random) -> Noise:
    return lambda: draw.gauss(0, 1)


def _ar1(draw: random.Random) -> Noise:
    keep, state = draw.uniform(0.3, 0.8), 0.0

    def follow() -> float:
        nonlocal state
        state = keep * state + math.sqrt(1 - keep * keep) * draw.gauss(0, 1)
        return state

    return follow


def _t3(draw: random.Random) -> Noise:
    return lambda: draw.gauss(0, 1) / math.sqrt(draw.gammavariate(1.5, 2) / 3) / math.sqrt(3)


_NOISES: Mapping[str, Callable[[random.Random], Noise]] = {"gauss": _gauss, "ar1": _ar1, "t3": _t3}
