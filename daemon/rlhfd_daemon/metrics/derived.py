"""What the daemon derives from a step's logged metrics (``rlhfd_daemon.derive``)."""

from __future__ import annotations

from rlhfd_daemon.metrics.metric import Metric, observed

__all__ = ["DERIVED"]

TRAINER = "PPOTrainer"
BUSY = "A busy machine slows all phases and leaves it as it is. Absent without train/timing/step_total"


def _rest(phase: str) -> Metric:
    meaning = f"train/timing/{phase} over the time of all other phases of the step. {BUSY}."
    return observed(f"rlhfd/ratio_of/{phase}_rest", "1", TRAINER, meaning)


DERIVED: tuple[Metric, ...] = (
    observed(
        "rlhfd/ratio_of/kl_policy_loss", "1", TRAINER,
        "train/kl over the size of train/policy_loss. Absent where the loss is 0.",
    ),
    observed(
        "rlhfd/ratio_of/value_policy_loss", "1", TRAINER,
        "train/critic_loss over the size of train/policy_loss. Absent where the loss is 0, or without a critic.",
    ),
    *(_rest(phase) for phase in ("generation", "make_experience", "ppo_train", "broadcast")),
)  # fmt: skip
