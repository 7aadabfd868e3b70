"""The faults of the held-out runs: what each does to a run's values, how fast and how much."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from detecting.generator import SEED, Course, Fault, Values, habits, rows
from detecting.logs import Log
from detecting.scoring import Label
from rlhfd_daemon.traces import Row

__all__ = ["held_out"]

AFTER = 150  # steps that a run goes on after the onset
HEALTHY_STEPS = (300,) * 12 + (600,) * 6 + (1500,) * 4
# Onset, steps until the fault has its full size, and which size.
SHAPES = (
    (80, 1, "large"), (80, 20, "medium"), (400, 60, "large"), (400, 5, "medium"), (900, 1, "medium"),
    (80, 5, "small"), (900, 20, "small"),
)  # fmt: skip
Effect = Callable[[Course, Values, float], None]  # the last is the size reached so far


@dataclass(frozen=True)
class Kind:
    """A fault's effect and its sizes; nobody should be called for a small one."""

    effect: Effect
    small: float
    medium: float
    large: float
    is_abrupt: bool = False


def held_out(every: int = 1) -> Iterator[Log]:
    """All held-out runs, or of each kind only one in ``every``."""
    for number, steps in list(enumerate(HEALTHY_STEPS))[::every]:
        yield _log(Label(f"healthy_{number}", "held-out", steps), None)
    for fault, kind in KINDS.items():
        for onset, ramp, size in SHAPES[::every]:
            if size == "small" and kind.small == kind.medium:
                continue
            over = 1 if kind.is_abrupt else ramp
            name = f"{fault}_{size}_at_{onset}_over_{over}"
            label = Label(name, "held-out", onset + AFTER - 1, fault, onset, size)
            yield _log(label, _planted(kind.effect, onset, over, getattr(kind, size)))


def _log(label: Label, fault: Fault | None) -> Log:
    def made() -> Iterator[Row]:
        draw = random.Random(f"{SEED} {label.name}")
        algorithm = "ppo" if label.fault == "value_divergence" else None
        return rows(Course(habits(draw, label.steps, algorithm), draw), fault)

    return Log(label, made=made)


def _planted(effect: Effect, onset: int, ramp: int, size: float) -> Fault:
    def fault(course: Course, step: int, values: Values) -> None:
        if step >= onset:
            effect(course, values, size * min(1.0, (step - onset + 1) / ramp))

    return fault


def _times(values: Values, key: str, factor: float) -> None:
    if key in values:
        values[key] *= factor


def _kl_explosion(course: Course, values: Values, size: float) -> None:
    _times(values, "train/kl", 1 + size)
    _times(values, "train/ppo_kl", 1 + size / 4)


def _entropy_collapse(course: Course, values: Values, size: float) -> None:
    _times(values, "train/entropy_loss", 1 - size)


def _set_reward(values: Values, reward: float) -> None:
    values["train/reward"] = values["train/rollout/reward_mean"] = reward
    values["train/return"] = reward - 0.01


def _reward_collapse(course: Course, values: Values, size: float) -> None:
    _set_reward(values, values["train/reward"] - size * course.reward_scale)


def _reward_hacking(course: Course, values: Values, size: float) -> None:
    """The reward rises, KL and length with it, and what is evaluated gets worse."""
    _set_reward(values, values["train/reward"] + size * course.reward_scale)
    _times(values, "train/kl", 1 + size / 6)
    _longer(values, 1 + size / 50)
    values["eval/eval_default_pass1"] *= math.exp(-size / 30)


def _nan_loss(course: Course, values: Values, size: float) -> None:
    for key in ("train/policy_loss", "train/actor_grad_norm", "train/kl", "train/entropy_loss"):
        values[key] = math.nan


def _grad_spikes(course: Course, values: Values, size: float) -> None:
    if course.draw.random() < 0.3:
        _times(values, "train/actor_grad_norm", 1 + size)


def _value_divergence(course: Course, values: Values, size: float) -> None:
    _times(values, "train/critic_loss", 1 + size)
    _times(values, "train/critic_grad_norm", 1 + size / 2)
    values["train/values"] -= size * course.reward_scale / 2


def _advantage_collapse(course: Course, values: Values, size: float) -> None:
    for key in ("train/advantages_std", "train/rollout/reward_std", "train/group_reward_std"):
        _times(values, key, 1 - size)


def _longer(values: Values, factor: float) -> None:
    longer = values["train/response_length"] * (factor - 1)
    for key in ("train/response_length", "train/rollout/response_length_mean", "train/total_length"):
        values[key] += longer


def _length_explosion(course: Course, values: Values, size: float) -> None:
    """Answers reach the cap, and more of them are cut off."""
    cap = course.parts["cap"] * course.parts["length"]
    _longer(values, min(1 + size, max(1.0, 0.95 * cap / values["train/response_length"])))
    values["train/rollout/truncated_rate"] = min(1.0, (values["train/response_length"] / cap) ** 6)


def _clip_saturation(course: Course, values: Values, size: float) -> None:
    values["train/ppo_clip_ratio"] = min(0.95, values["train/ppo_clip_ratio"] + size)


def _generation_slowdown(course: Course, values: Values, size: float) -> None:
    values["slower"] = 1 + size


def _reward_constant(course: Course, values: Values, size: float) -> None:
    _set_reward(values, 1.0)
    values["train/rollout/reward_std"] = values["train/group_reward_std"] = 0.0


KINDS: Mapping[str, Kind] = {
    "kl_explosion": Kind(_kl_explosion, 0.1, 4, 20),
    "entropy_collapse": Kind(_entropy_collapse, 0.03, 0.6, 0.95),
    "reward_collapse": Kind(_reward_collapse, 0.3, 8, 20),
    "reward_hacking": Kind(_reward_hacking, 0.3, 8, 20),
    "nan_loss": Kind(_nan_loss, 1, 1, 1, is_abrupt=True),
    "grad_spikes": Kind(_grad_spikes, 0.2, 6, 30),
    "value_divergence": Kind(_value_divergence, 0.1, 5, 40),
    "advantage_collapse": Kind(_advantage_collapse, 0.05, 0.8, 0.98),
    "length_explosion": Kind(_length_explosion, 0.02, 0.6, 1.2),
    "clip_saturation": Kind(_clip_saturation, 0.005, 0.2, 0.5),
    "generation_slowdown": Kind(_generation_slowdown, 0.03, 0.8, 4),
    "reward_constant": Kind(_reward_constant, 1, 1, 1, is_abrupt=True),
}
